"""The contract of a source: how a dataset is downloaded, and how its files are decoded.

Each source is one file of pipeline/ingest/sources; the file's name is the value of ``data.source``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError

Report = Callable[[str, int, int | None], None]
"""Called with the name of what is in progress, how much of it is done, and the total if it is known."""


UNLABELED = "images"
"""The class of images that have none."""


def silent(name: str, done: int, total: int | None) -> None:
    """Ignore progress."""


class UnreadableError(Exception):
    """An image that can't be used, which is left out and listed.

    Attributes:
        kind: what is wrong, in a few words that are the same for all of a kind.
        detail: what is known beyond that, such as the decoder's own message.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        """Say what is wrong.

        Args:
            kind: see the attributes.
            detail: see the attributes.
        """
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file among the images that is not used.

    Attributes:
        name: relative path.
        kind: what is wrong, see ``UnreadableError``.
        detail: what is known beyond that.
    """

    name: str
    kind: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a source gets its files from.

    Attributes:
        paths: ``data.path``, for a dataset of the user's own: local paths or URLs; relative ones count from ``folder``.
        folder: the project's.
        listing: what the stage own found at ``paths``, see ``listing.py``.
        labels: ``data.labels``, where a user's own images have their labels.
        mirror: ``data.mirror``, a directory or URL prefix to use instead of the publisher's URLs.
        downloads: folder that keeps downloaded files, complete ones and parts.
        report: called with the progress.
    """

    paths: tuple[str, ...] = ()
    folder: Path = Path()
    listing: Path | None = None
    labels: str = "auto"
    mirror: str | None = None
    downloads: Path
    report: Report = silent


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """One split as its publisher made it.

    Attributes:
        labels: int64 (n,) in [0, classes).
        decode: returns the image of a number in [0, n), loaded and upright, in any PIL mode; raises UnreadableError
            for one that is to be left out; may be called from several threads at once.
        names: what people call each image, for quarantine.csv; None: its number.
        digests: hex SHA-256 of each image's content, of a dataset that may grow: by these it is cut into splits and
            shards, so that a new image changes few of them. None: published, the same for ever.
    """

    labels: NDArray[np.int64]
    decode: Callable[[int], Image.Image]
    names: Sequence[str] | None = None
    digests: Sequence[str] | None = None

    def take(self, indices: NDArray[np.int64]) -> "RawSplit":
        """Return the samples with these numbers, in this order."""
        decode = self.decode
        return RawSplit(
            labels=self.labels[indices],
            decode=lambda number: decode(int(indices[number])),
            names=self.names and [self.names[number] for number in indices],
            digests=self.digests and [self.digests[number] for number in indices],
        )

    def name(self, number: int) -> str:
        """Return what people call an image."""
        return self.names[number] if self.names else str(number)


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A dataset as its publisher made it.

    Attributes:
        classes: names, by label.
        splits: 'train' and, if the publisher has one, 'test'.
        left_out: files that were found and are no images of any split.
        paired: of each split, image i of the first class is the partner of image i of the second, in the order of the
            images' names.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]
    left_out: tuple[LeftOut, ...] = ()
    paired: bool = False


def unusable(raw: Path, reason: object) -> UserError:
    """Return the error for a folder whose files are not those that ``Source.download`` makes."""
    return UserError(f"{raw}: not this source's files ({reason}). Run `dvc repro --force download` to replace them.")


class Source(ABC):
    """A dataset that can be chosen as ``data.source``.

    Attributes:
        own: the data are the user's own, at ``data.path``: the stage own looks at them at every ``dvc repro``.
        paired: its two classes are the two images of pairs.
        gray: all images are gray, so they are trained on with one channel unless params.yaml says otherwise.
    """

    own: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    gray: bool = False

    def channels(self, given: int | str) -> int:
        """Return what ``data.channels`` means for this source, where it is auto."""
        return given if isinstance(given, int) else 1 if self.gray else 3

    def address(self, path: str) -> str:
        """Return the local path, pattern or URL that a path of ``data.path`` stands for, as a name on a hub does."""
        return path

    @abstractmethod
    def download(self, origin: Origin, raw: Path) -> None:
        """Fill the empty folder ``raw`` with checked files; equal inputs make equal bytes.

        Args:
            origin: where to get the files from.
            raw: the folder to fill.

        Raises:
            UserError: the files can't be had, or are damaged.
        """

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        """Return the classes' names if they are known before the download; by default they are not.

        Args:
            origin: where the files will be got from; nothing is downloaded.

        Returns:
            The names by label, or None.
        """
        return None

    @abstractmethod
    def open(self, raw: Path, origin: Origin) -> AbstractContextManager[RawDataset]:
        """Open what ``download`` made; images are decoded one at a time if the dataset may be of any size.

        Args:
            raw: the folder that ``download`` filled.
            origin: where large files are that ``download`` has left in their place: a user's own data, downloads.

        Returns:
            A context manager that yields the dataset and closes its files.

        Raises:
            UserError: the files are not those that ``download`` makes.
        """
