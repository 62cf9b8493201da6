"""The contract of a source: how a dataset is downloaded, and how its files are decoded.

Each source is one file of pipeline/ingest/sources; the file's name is the value of ``data.source``.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError, nearest, refuse

logger = logging.getLogger(__name__)
Report = Callable[[str, int, int | None], None]
"""Called with the name of what is in progress, how much of it is done, and the total if it is known."""


UNLABELED = "images"
"""The class of images that have none."""

_KEY = "params.yaml: data.classes"
_NAMED = 20  # classes that a message lists: of ImageNet's thousand nobody reads more


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
        of: name of its class; None: not known. Nobody is told, but the images of other classes than the chosen ones
            count for nothing.
    """

    name: str
    kind: str
    detail: str = ""
    of: str | None = field(default=None, compare=False)


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
        numbers: int64 (n,), of images without digests what numbers they have in the split as published, by which their
            shards are told from those of another choice; None: it is the whole split.
    """

    labels: NDArray[np.int64]
    decode: Callable[[int], Image.Image]
    names: Sequence[str] | None = None
    digests: Sequence[str] | None = None
    numbers: NDArray[np.int64] | None = None

    def take(self, indices: NDArray[np.int64]) -> "RawSplit":
        """Return the samples with these numbers, in this order."""
        decode = self.decode
        return RawSplit(
            labels=self.labels[indices],
            decode=lambda number: decode(int(indices[number])),
            names=self.names and [self.names[number] for number in indices],
            digests=self.digests and [self.digests[number] for number in indices],
            numbers=indices if self.numbers is None else self.numbers[indices],
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
        chosen_of: where only some of the classes were taken, how many there are; else None.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]
    left_out: tuple[LeftOut, ...] = ()
    paired: bool = False
    chosen_of: int | None = None

    def of_classes(self, chosen: Sequence[str] | None) -> "RawDataset":
        """Return the images of some classes, in the order that they have here, without decoding any.

        A test split that has no image of theirs is passed over. Of pairs both classes are taken, or the images of one
        without their partners.

        Args:
            chosen: the classes' names, in the order of the new labels, which begin at 0; None: all.

        Returns:
            A dataset of these classes alone; this one, if they are all of its classes in its order.

        Raises:
            UserError: a class is not there, or has no image to train on; the message names data.classes.
        """
        if chosen is None:
            return self
        check_chosen(chosen, self.classes)
        left_out = tuple(one for one in self.left_out if one.of is None or one.of in chosen)
        label_of = np.full(len(self.classes), -1, dtype=np.int64)
        label_of[[self.classes.index(name) for name in chosen]] = np.arange(len(chosen))
        splits = {name: _relabelled(split, label_of) for name, split in self.splits.items()}
        if "train" in splits:  # else nothing is usable, which is said later, with the reasons
            splits = _trainable(splits, chosen)
        if tuple(chosen) == self.classes:
            return replace(self, left_out=left_out)
        return RawDataset(
            classes=tuple(chosen),
            splits=splits,
            left_out=left_out,
            paired=self.paired and len(chosen) == len(self.classes),
            chosen_of=len(self.classes),
        )


def check_chosen(chosen: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError if data.classes names a class that is not there, or a name that several classes have.

    Args:
        chosen: the names.
        known: the classes of the source.

    Raises:
        UserError: with the key, and what there is.
    """
    if list(known) == [UNLABELED] and list(chosen) != [UNLABELED]:
        raise UserError(
            f"{_KEY}: the images have no classes, so there is no '{chosen[0]}'. Set it to null, or say in data.labels "
            "where the images have their labels."
        )
    problems = [f"there is no class '{name}'. {nearest(name, known, _NAMED)}" for name in chosen if name not in known]
    problems += [
        f"{known.count(name)} classes are called '{name}'. Give them names of their own, or set it to null."
        for name in chosen
        if known.count(name) > 1
    ]
    refuse(f"{_KEY}: {problem}" for problem in problems)


def _relabelled(split: RawSplit, label_of: NDArray[np.int64]) -> RawSplit:
    """Return the images whose label has a new one, which is not -1, with that one."""
    labels = label_of[split.labels]
    rows = np.flatnonzero(labels >= 0)
    return replace(split.take(rows), labels=labels[rows])


def _trainable(splits: Mapping[str, RawSplit], chosen: Sequence[str]) -> dict[str, RawSplit]:
    """Return the splits that have images; UserError where a class has none to train on."""
    there = {name: set(split.labels.tolist()) for name, split in splits.items()}
    without = [name for label, name in enumerate(chosen) if label not in there["train"]]
    refuse(f"{_KEY}: '{name}' has no image to train on. Add some, or leave the class out." for name in without)
    if lacking := [name for label, name in enumerate(chosen) if label not in there.get("test", range(len(chosen)))]:
        rest = "a test split is held out of train" if not there["test"] else "its measures say nothing of them"
        logger.warning("The test split has no image of %s: %s.", ", ".join(lacking), rest)
    return {name: split for name, split in splits.items() if len(split.labels)}


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
