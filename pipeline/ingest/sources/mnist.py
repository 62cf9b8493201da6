"""MNIST: 70,000 handwritten digits, 28x28, gray (LeCun, Cortes and Burges, 1998).

The hashes are of the decompressed files, so a mirror may have compressed them again.
"""

from torchvision.datasets import MNIST

from pipeline.ingest.torchvision_dataset import mnist_like

SOURCE = mnist_like(
    MNIST,
    content={
        "train-images-idx3-ubyte.gz": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte.gz": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte.gz": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte.gz": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
