"""CIFAR-100: 60,000 photographs in a hundred classes, 32x32, RGB (Krizhevsky, 2009); see cifar10.py."""

from torchvision.datasets import CIFAR100

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

SOURCE = TorchvisionDataset(dataset=CIFAR100, files=(RemoteFile.at(CIFAR100.url, CIFAR100.tgz_md5),))
