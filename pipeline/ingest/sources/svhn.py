"""SVHN: 99,289 digits cut from photographs of house numbers, 32x32, RGB (Netzer et al., 2011).

In the files the images are (32, 32, 3, n), and the label of a 0 is 10. The 531,131 easier digits of the file "extra"
are left out.
"""

from operator import attrgetter

from torchvision.datasets import SVHN

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

_SPLITS = ("train", "test")

SOURCE = TorchvisionDataset(
    dataset=SVHN,
    files=tuple(RemoteFile.at(SVHN.split_list[split][0], SVHN.split_list[split][2]) for split in _SPLITS),
    splits={split: {"split": split} for split in _SPLITS},
    labels=attrgetter("labels"),
    classes=tuple("0123456789"),
)
