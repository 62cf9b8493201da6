"""The contract of a dataset: how it is brought here, and how what was brought is decoded.

One dataset is one file of pipeline/ingest/sources; its name is the value of ``data.source``.
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
"""Told of progress: what is under way, how much of it is done, and of how much where that is known."""


def silent(name: str, done: int, total: int | None) -> None:
    """Shows no progress."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where this user's files come from.

    path: ``data.path``, for a dataset of the user's own. mirror: ``data.mirror``, a directory or URL
    prefix that takes the network's place. partial: the folder where an interrupted download waits.
    """

    path: Path
    mirror: str | None
    partial: Path
    report: Report = silent


@dataclass(frozen=True)
class RawSplit:
    """One split as its publisher made it.

    labels: (n,) int64 in [0, classes). decode: the image of a number in [0, n), loaded, upright and
    with 8 bits per channel, in any PIL mode; it may be called from several threads at once.
    """

    labels: NDArray[np.int64]
    decode: Callable[[int], Image.Image]

    def take(self, indices: NDArray[np.int64]) -> "RawSplit":
        """The samples of those numbers, in that order."""
        decode = self.decode
        return RawSplit(labels=self.labels[indices], decode=lambda number: decode(int(indices[number])))


@dataclass(frozen=True)
class RawDataset:
    """classes: their names, by label. splits: 'train' and, where the publisher holds one out, 'test'."""

    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]


def unusable(raw: Path, error: Exception) -> UserError:
    """What to say when the downloaded files are not those that ``download`` made."""
    return UserError(f"{raw}: not this source's files ({error}). Run `dvc repro --force download` to make them anew.")


class Source(ABC):
    """One dataset."""

    @abstractmethod
    def download(self, origin: Origin, raw: Path) -> None:
        """Fills the empty folder ``raw`` with few, checked files, the same bytes every time for the same input."""

    @abstractmethod
    def open(self, raw: Path) -> AbstractContextManager[RawDataset]:
        """Decodes what ``download`` made, an image at a time where the dataset may be of any size."""
