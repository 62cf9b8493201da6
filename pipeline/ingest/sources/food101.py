"""Food-101: 101,000 photographs of dishes in 101 classes, at most 512 pixels wide, RGB (Bossard et al., ECCV 2014)."""

import json

from torchvision.datasets import Food101

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_ARCHIVE = RemoteFile.at(Food101._URL, Food101._MD5)


def _read(opened: Opened, labels: str) -> RawDataset:
    archive = opened.archives[_ARCHIVE.name]
    found = {split: json.loads(archive.read(f"food-101/meta/{split}.json")) for split in ("train", "test")}
    classes = sorted(found["train"])
    splits = {
        split: split_of(
            archive,
            ((f"food-101/images/{image}.jpg", classes.index(name)) for name in images for image in images[name]),
        )
        for split, images in found.items()
    }
    return RawDataset(classes=tuple(classes), splits=splits)


SOURCE = ArchivedDataset(files=(_ARCHIVE,), read=_read)
