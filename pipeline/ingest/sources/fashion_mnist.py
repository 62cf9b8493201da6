"""Fashion-MNIST: 70,000 articles of clothing, 28x28, gray (Xiao, Rasul and Vollgraf, arXiv:1708.07747).

The hashes are of the decompressed files, so a mirror may have compressed them again. The publisher does not give them;
several independent projects agree on these.
"""

from torchvision.datasets import FashionMNIST

from pipeline.ingest.torchvision_dataset import mnist_like

SOURCE = mnist_like(
    FashionMNIST,
    content={
        "train-images-idx3-ubyte.gz": "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte.gz": "md5:9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte.gz": "md5:8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte.gz": "md5:15d484375f8d13e6eb1aabb0c3f46965",
    },
)
