"""Datasets that torchvision decodes, from files that are downloaded and checked here.

torchvision is only ever called with ``download=False``, so it never reaches the network. It verifies the md5 of pickles
(CIFAR) before it loads them. A new dataset of torchvision's is one file of pipeline/ingest/sources with a few lines.
"""

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets.utils import calculate_md5, extract_archive

from pipeline.ingest.download import DamagedError, obtain
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

_PACKED = (".gz", ".tgz", ".zip")  # files that torchvision wants unpacked; it reads .bz2 and .mat itself
_MOST_BYTES = 2**28  # in a .gz file whose md5 isn't the published one: a decompression bomb ends there
_UNREADABLE = (AssertionError, OSError, RuntimeError, TypeError, ValueError)  # what torchvision's readers raise


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of the dataset's publisher.

    Attributes:
        name: the file's name under each URL prefix.
        urls: URL prefixes.
        md5: hex digest of the file.
        content: 'algorithm:hexdigest' of what a .gz file holds, if it is known: recompressed copies pass too.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    content: str | None = None

    @classmethod
    def at(cls, url: str, md5: str) -> "RemoteFile":
        """Return the file at a URL."""
        prefix, _, name = url.rpartition("/")
        return cls(name=name, urls=(prefix,), md5=md5)

    def check(self, path: Path) -> None:
        """Compare a file with the published one.

        Args:
            path: the file.

        Raises:
            DamagedError: it's another file.
        """
        if calculate_md5(path) == self.md5:
            return
        if self.content is None:
            raise DamagedError(f"not the published file (expected md5 {self.md5})")
        algorithm, _, digest = self.content.partition(":")
        if _hash_of_content(path, algorithm) != digest:
            raise DamagedError(f"what is in it is not the published file (expected {self.content})")


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(Source):
    """A source that one class of torchvision.datasets decodes.

    Attributes:
        dataset: the class.
        files: all files that it needs.
        folder: where it looks for them, relative to its root.
        splits: by name, the arguments with which the class opens that split.
        labels: name of the attribute that holds the labels.
        classes: names, by label; None: the class knows them.
    """

    dataset: Callable[..., Any]
    files: tuple[RemoteFile, ...]
    folder: str = "."
    splits: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"train": {"train": True}, "test": {"train": False}}
    )
    labels: str = "targets"
    classes: tuple[str, ...] | None = None

    def download(self, origin: Origin, raw: Path) -> None:
        folder = raw / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            copy = shutil.copyfile(obtain(file.name, file.urls, origin, file.check), folder / file.name)
            if copy.suffix in _PACKED:
                extract_archive(copy, folder, remove_finished=True)

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        return self.classes

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        """Decode what ``download`` made; all of it is held in memory."""
        try:
            opened = {name: self.dataset(raw, download=False, **arguments) for name, arguments in self.splits.items()}
        except _UNREADABLE as error:
            raise unusable(raw, str(error).removesuffix(" You can use download=True to download it")) from error
        yield RawDataset(
            classes=self.classes or tuple(opened["train"].classes),
            splits={name: _split(dataset, getattr(dataset, self.labels)) for name, dataset in opened.items()},
        )


def mnist_like(dataset: Any, content: Mapping[str, str]) -> TorchvisionDataset:
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
            RemoteFile(name=name, urls=mirrors, md5=md5, content=content.get(name)) for name, md5 in dataset.resources
        ),
        folder=f"{dataset.__name__}/raw",
        classes=tuple(dataset.classes),
    )


def _split(dataset: Any, labels: Any) -> RawSplit:
    return RawSplit(labels=np.asarray(labels, dtype=np.int64), decode=lambda number: dataset[number][0])


def _hash_of_content(path: Path, algorithm: str) -> str:
    """Return the hex digest of what a .gz file holds; DamagedError if it can't be unpacked."""
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with gzip.open(path) as file:
            while block := file.read(2**20):
                digest.update(block)
                size += len(block)
                if size > _MOST_BYTES:
                    raise DamagedError(f"it unpacks to more than {_MOST_BYTES} bytes")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedError(f"not a whole gzip file ({error})") from error
    return digest.hexdigest()
