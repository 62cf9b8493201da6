"""Datasets that torchvision decodes, from files that are downloaded and checked here.

torchvision is only ever called with ``download=False``, so it never reaches the network. It verifies the md5 of pickles
(CIFAR) before it loads them. A new dataset of torchvision's is one file of pipeline/ingest/sources with a few lines.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets.utils import extract_archive

from pipeline.ingest.remote_file import RemoteFile, fetch
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

_PACKED = (".gz", ".tgz", ".zip")  # files that torchvision wants unpacked; it reads .bz2 and .mat itself
_UNREADABLE = (AssertionError, OSError, RuntimeError, TypeError, ValueError)  # what torchvision's readers raise


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(Source):
    """A source that one class of torchvision.datasets decodes.

    Attributes:
        dataset: the class.
        files: all files that it needs.
        folder: where it looks for them, relative to its root.
        splits: by name, the arguments with which the class opens that split.
        labels: returns an opened split's labels, from 0.
        turn: brings an image upright.
        classes: names, by label; None: the class knows them.
        gray: all images are gray.
        unpack: brings what is in a downloaded file into the folder of a path, which is that of a copy of the file.
    """

    dataset: Callable[..., Any]
    files: tuple[RemoteFile, ...]
    folder: str = "."
    splits: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"train": {"train": True}, "test": {"train": False}}
    )
    labels: Callable[[Any], Any] = attrgetter("targets")
    turn: Callable[[Image.Image], Image.Image] | None = None
    classes: tuple[str, ...] | None = None
    gray: bool = False
    unpack: Callable[[Path, Path], None] = field(default_factory=lambda: _unpack)

    def download(self, origin: Origin, raw: Path) -> None:
        folder = raw / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for file, found in zip(self.files, fetch(self.files, origin), strict=True):
            self.unpack(found, folder / file.name)

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        return self.classes

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        """Decode what ``download`` made; all of it is held in memory."""
        try:
            opened = {name: self.dataset(raw, download=False, **arguments) for name, arguments in self.splits.items()}
        except _UNREADABLE as error:
            raise unusable(raw, str(error).removesuffix(" You can use download=True to download it")) from error
        classes = self.classes or tuple(opened["train"].classes)
        splits = {name: self._split(dataset) for name, dataset in opened.items()}
        for split in splits.values():
            if split.labels.min(initial=0) < 0 or split.labels.max(initial=0) >= len(classes):
                raise unusable(raw, f"labels that are not in 0 to {len(classes) - 1}")
        yield RawDataset(classes=classes, splits=splits)

    def _split(self, dataset: Any) -> RawSplit:
        turn = self.turn or _as_it_is
        labels = np.asarray(self.labels(dataset), dtype=np.int64)
        return RawSplit(labels=labels, decode=lambda number: turn(dataset[number][0]))


def mnist_like(dataset: Any, content: Mapping[str, str] = MappingProxyType({})) -> TorchvisionDataset:
    """Return the source of a dataset in MNIST's format.

    Args:
        dataset: torchvision's MNIST or a class derived from it.
        content: hashes by file name, see ``RemoteFile``; may lack files.

    Returns:
        The source.
    """
    mirrors = tuple(dataset.mirrors)
    return TorchvisionDataset(
        dataset=dataset,
        files=tuple(
            RemoteFile(name=name, urls=mirrors, digest=f"md5:{md5}", content=content.get(name))
            for name, md5 in dataset.resources
        ),
        folder=f"{dataset.__name__}/raw",
        classes=tuple(dataset.classes),
        gray=True,
    )


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


def _unpack(found: Path, copy: Path) -> None:
    shutil.copyfile(found, copy)
    if copy.suffix in _PACKED:
        extract_archive(copy, copy.parent, remove_finished=True)
