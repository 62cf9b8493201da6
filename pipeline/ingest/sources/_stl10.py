"""STL-10: photographs of ImageNet's in ten classes and beside them, 96x96, RGB (Coates, Ng and Lee, AISTATS 2011).

In the files an image is (3, width, height), so columns come first, and labels begin at 1. The files are memory-mapped.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import STL10

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened
from pipeline.ingest.archives import Tar
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import UNLABELED, RawDataset, RawSplit

_ARCHIVE = RemoteFile.at(STL10.url, STL10.tgz_md5)
_SHAPE = (3, 96, 96)


def labeled(opened: Opened, labels: str) -> RawDataset:
    """Read the 5,000 images of train and the 8,000 of test."""
    archive = _archive(opened)
    classes = archive.read(f"{STL10.base_folder}/{STL10.class_names_file}").decode().split()
    splits = {
        split: _split(
            _images(archive, f"{split}_X.bin"),
            np.frombuffer(archive.read(f"{STL10.base_folder}/{split}_y.bin"), np.uint8).astype(np.int64) - 1,
        )
        for split in ("train", "test")
    }
    return RawDataset(classes=tuple(classes), splits=splits)


def unlabeled(opened: Opened, labels: str) -> RawDataset:
    """Read the 100,000 images without labels."""
    images = _images(_archive(opened), "unlabeled_X.bin")
    return RawDataset(classes=(UNLABELED,), splits={"train": _split(images, np.zeros(len(images), dtype=np.int64))})


def stl10(*, with_labels: bool) -> ArchivedDataset:
    """Return the source of the images with labels, or of those without."""
    return ArchivedDataset(files=(_ARCHIVE,), read=labeled if with_labels else unlabeled)


def _archive(opened: Opened) -> Tar:
    archive = opened.archives[_ARCHIVE.name]
    assert isinstance(archive, Tar)
    return archive


def _images(archive: Tar, name: str) -> NDArray[np.uint8]:
    """Memory-map a file in the tar: uint8 (n, 3, w, h)."""
    number = archive.numbers[f"{STL10.base_folder}/{name}"]
    count, rest = divmod(archive.sizes[number], int(np.prod(_SHAPE)))
    if rest:
        raise ValueError(f"{name} ends within an image")
    return np.memmap(archive.path, np.uint8, "r", archive.offsets[number], (count, *_SHAPE))


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> RawSplit:
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    return RawSplit(
        labels=labels,
        decode=lambda number: Image.fromarray(np.ascontiguousarray(images[number].transpose(2, 1, 0))),
    )
