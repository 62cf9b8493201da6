"""The contract of a source: how a dataset is downloaded, and how its files are decoded.

Each source is one file of pipeline/ingest/sources; the file's name is the value of ``data.source``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError

Report = Callable[[str, int, int | None], None]
"""Called with the name of what is in progress, how much of it is done, and the total if it is known."""


def silent(name: str, done: int, total: int | None) -> None:
    """Ignore progress."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a source gets its files from.

    Attributes:
        path: ``data.path``, for a dataset of the user's own.
        mirror: ``data.mirror``, a directory or URL prefix to use instead of the publisher's URLs.
        downloads: folder that keeps downloaded files, complete ones and parts.
        report: called with the progress.
    """

    path: Path
    mirror: str | None
    downloads: Path
    report: Report = silent


@dataclass(frozen=True)
class RawSplit:
    """One split as its publisher made it.

    Attributes:
        labels: int64 (n,) in [0, classes).
        decode: returns the image of a number in [0, n), loaded, upright and with 8 bits per channel, in any PIL mode;
            may be called from several threads at once.
    """

    labels: NDArray[np.int64]
    decode: Callable[[int], Image.Image]

    def take(self, indices: NDArray[np.int64]) -> "RawSplit":
        """Return the samples with these numbers, in this order."""
        decode = self.decode
        return RawSplit(labels=self.labels[indices], decode=lambda number: decode(int(indices[number])))


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its publisher made it.

    Attributes:
        classes: names, by label.
        splits: 'train' and, if the publisher has one, 'test'.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]


def unusable(raw: Path, reason: object) -> UserError:
    """Return the error for a folder whose files are not those that ``Source.download`` makes."""
    return UserError(f"{raw}: not this source's files ({reason}). Run `dvc repro --force download` to replace them.")


class Source(ABC):
    """A dataset that can be chosen as ``data.source``."""

    @abstractmethod
    def download(self, origin: Origin, raw: Path) -> None:
        """Fill the empty folder ``raw`` with checked files; equal inputs make equal bytes.

        Args:
            origin: where to get the files from.
            raw: the folder to fill.

        Raises:
            UserError: the files can't be had, or are damaged.
        """

    def foreseen_classes(self, path: Path) -> tuple[str, ...] | None:
        """Return the classes' names if they are known before the download; by default they are not.

        Args:
            path: ``data.path``.

        Returns:
            The names by label, or None.
        """
        return None

    @abstractmethod
    def open(self, raw: Path) -> AbstractContextManager[RawDataset]:
        """Open what ``download`` made; images are decoded one at a time if the dataset may be of any size.

        Args:
            raw: the folder that ``download`` filled.

        Returns:
            A context manager that yields the dataset and closes its files.

        Raises:
            UserError: the files are not those that ``download`` makes.
        """
