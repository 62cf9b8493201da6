"""CIFAR-10: 60,000 photographs in ten classes, 32x32, RGB (Krizhevsky, "Learning multiple layers of features", 2009).

The archive must be the published one: its members are pickles, which torchvision loads once their md5 is right.
"""

from torchvision.datasets import CIFAR10

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

SOURCE = TorchvisionDataset(
    dataset=CIFAR10,
    files=(RemoteFile.at(CIFAR10.url, CIFAR10.tgz_md5),),
    # As batches.meta has them: so a misspelt one is said before the download.
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
