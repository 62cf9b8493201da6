"""QMNIST: MNIST rebuilt from NIST's scans, with all 60,000 test digits, 28x28, gray (arXiv:1905.10498).

Each label is a row of eight numbers, of which the first is the digit; the others tell who wrote it.
"""

from torchvision.datasets import QMNIST

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

SOURCE = TorchvisionDataset(
    dataset=QMNIST,
    files=tuple(RemoteFile.at(url, md5) for split in ("train", "test") for url, md5 in QMNIST.resources[split]),
    folder="QMNIST/raw",
    labels=lambda dataset: dataset.targets[:, 0],
    classes=tuple("0123456789"),
    gray=True,
)
