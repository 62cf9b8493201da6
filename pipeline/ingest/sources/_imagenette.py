"""Imagenette: 13,394 photographs of ten easy classes of ImageNet's, RGB (Howard, 2019), in three sizes."""

from functools import partial
from pathlib import PurePosixPath

from torchvision.datasets import Imagenette

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_WORDNET = sorted(Imagenette._WNID_TO_CLASS)
_SPLITS = {"train": "train", "val": "test"}


def imagenette(size: str) -> ArchivedDataset:
    """Return the source of one size, a key of ``Imagenette._ARCHIVES``."""
    archive = RemoteFile.at(*Imagenette._ARCHIVES[size])
    classes = tuple(Imagenette._WNID_TO_CLASS[name][0] for name in _WORDNET)
    return ArchivedDataset(files=(archive,), read=partial(_read, archive.name, classes), classes=classes)


def _read(name: str, classes: tuple[str, ...], opened: Opened, labels: str) -> RawDataset:
    archive = opened.archives[name]
    found: dict[str, list[tuple[str, int]]] = {split: [] for split in _SPLITS.values()}
    for image in archive.members():
        path = PurePosixPath(image)  # such as imagenette2/train/n01440764/n01440764_10026.JPEG
        if path.suffix == ".JPEG" and not path.name.startswith("."):
            found[_SPLITS[path.parts[1]]].append((image, _WORDNET.index(path.parts[2])))
    return RawDataset(classes=classes, splits={split: split_of(archive, images) for split, images in found.items()})
