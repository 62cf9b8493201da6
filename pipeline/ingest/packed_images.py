"""A user's own files that hold many images each: tables, arrays and shards, read in their place.

What lies in a file is found once, by reading it from beginning to end, and kept by the file's hash in
<downloads>/indexes; a file that is added is read alone. Files whose names or folders say test, val, valid or validation
are the test split, all others train.
"""

import hashlib
import json
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.files import write_json, write_packed_json
from pipeline.ingest.download import obtain_all
from pipeline.ingest.originals import Original, check, keep_listing, originals
from pipeline.ingest.source import UNLABELED, LeftOut, Origin, RawDataset, RawSplit, Source

Hashed = bytes | memoryview
logger = logging.getLogger(__name__)
LABELS = ("label", "labels", "class", "category", "target", "fine_label", "cls")  # names, in the order of preference
_TEST = re.compile(r"(^|[^a-z])(test|val|valid|validation)([^a-z]|$)")
_LABELS = "labels.json"
_VERSION = 1  # of the indexes: another one makes them anew


@dataclass(kw_only=True)
class Index:
    """What lies in one file, by column.

    Attributes:
        names: of the images, such as the key of a sample; sorted, they are in the order of the file.
        digests: hex SHA-256 of each image's content.
        labels: name of each image's class; empty where it has none.
        places: what the reader needs to find each image.
        splits: 'train' or 'test' of each image, where the file says so itself; empty: the file's name says it.
        classes: names in the order of the labels, where the file has them.
        left_out: name, kind and detail of what is no usable image.
    """

    names: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    left_out: list[list[str]] = field(default_factory=list)

    def add(self, name: str, digest: str, label: str, place: Sequence[int], split: str = "") -> None:
        """Add an image; a label of -1 is none."""
        self.names.append(name)
        self.digests.append(digest)
        self.labels.append("" if label == "-1" else label)
        self.places.append(list(place))
        self.splits.append(split)


Reader = Callable[[Sequence[int]], tuple[Hashed, Callable[[], Image.Image]]]
"""Returns what lies at a place, whose hash is known, and its decoder; raises UnreadableError; is for any thread."""


class PackedImages(Source):
    """A source of files that hold many images each.

    Attributes:
        suffixes: of the files; others are passed over.
    """

    own: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def index(self, file: Path, labels: str, scratch: Path) -> Index:
        """Read a file from beginning to end.

        Args:
            file: the file.
            labels: ``data.labels``.
            scratch: a folder for what is unpacked.

        Returns:
            What lies in it.

        Raises:
            UserError: it can't be read; the message names no file.
        """

    @abstractmethod
    def reader(self, file: Path, scratch: Path, stack: ExitStack) -> Reader:
        """Open a file.

        Args:
            file: the file.
            scratch: as ``index`` had it.
            stack: closes what is opened.

        Returns:
            A function of the places that ``index`` found.
        """

    def download(self, origin: Origin, raw: Path) -> None:
        keep_listing(origin, raw, self.takes)
        self._indexed(originals(raw, origin), origin)
        write_json(raw / _LABELS, origin.labels)  # they decide what ``open`` makes of the files

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        with ExitStack() as stack:
            yield self.dataset(originals(raw, origin), origin, stack)

    def takes(self, name: str) -> bool:
        """Tell by its name a file that may hold images."""
        return name.lower().endswith(self.suffixes)

    def dataset(self, files: Sequence[Original], origin: Origin, stack: ExitStack) -> RawDataset:
        """Return the dataset of some files.

        Args:
            files: with a suffix that this source takes.
            origin: where they are from.
            stack: closes them.

        Returns:
            The dataset.

        Raises:
            UserError: there is no image in them, or a file can't be read.
        """
        indexes = self._indexed(files, origin)
        readers = [self.reader(check(file), origin.downloads, stack) for file in files]
        return _assembled(files, indexes, readers, ", ".join(origin.paths))

    def _indexed(self, files: Sequence[Original], origin: Origin) -> list[Index]:
        if not files:
            ends = " or ".join(self.suffixes)
            raise UserError(f"params.yaml: data.path: no file at {', '.join(origin.paths)} ends with {ends}.")
        if bad := next((file for file in files if file.problem), None):
            raise UserError(f"{bad.file}: {bad.problem}. Replace or remove it, and run `dvc repro`.")
        done = 0

        def one(file: Original) -> Index:
            nonlocal done
            index = self._index_of(file, origin)
            done += 1
            origin.report("looking into files", done, len(files))
            return index

        return obtain_all(one, files)

    def _index_of(self, file: Original, origin: Origin) -> Index:
        labels = re.sub(r"\W", "-", origin.labels)
        kept = origin.downloads / "indexes" / f"{file.sha256}-{labels}-{_VERSION}.json"
        with suppress(OSError, ValueError, TypeError):  # not there, or another version's
            return Index(**json.loads(kept.read_text()))
        try:
            index = self.index(check(file), origin.labels, origin.downloads)
        except UserError as error:
            raise UserError(f"{file.file}: {error}") from error
        write_packed_json(kept, vars(index))
        return index


def classes_of(labels: Iterable[str]) -> list[str]:
    """Return the names of the classes of labels: 0 to the largest if they are whole numbers, else the names, sorted."""
    names = set(labels)
    if all(name.isascii() and name.isdigit() for name in names):
        largest = max(map(int, names))
        if largest < 10 * len(names) + 10:  # not somebody's own numbers
            return [str(number) for number in range(largest + 1)]
        return sorted(names, key=int)
    return sorted(names)


def split_named(name: str) -> str:
    """Return the split that the path of a file says, 'train' or 'test'."""
    return "test" if _TEST.search(name.lower()) else "train"


@dataclass(frozen=True, slots=True)
class _One:
    name: str
    digest: str
    label: str
    file: int
    place: Sequence[int]


def _assembled(
    files: Sequence[Original], indexes: Sequence[Index], readers: Sequence[Reader], where: str
) -> RawDataset:
    splits: dict[str, list[_One]] = {"train": [], "test": []}
    left_out = []
    for number, (file, index) in enumerate(zip(files, indexes, strict=True)):
        rows = zip(index.names, index.digests, index.labels, index.places, index.splits, strict=True)
        for name, digest, label, place, split in rows:
            one = _One(f"{file.name}/{name}", digest, label, number, place)
            splits[split or split_named(file.name)].append(one)
        left_out += [
            LeftOut(name=f"{file.name}/{name}", kind=kind, detail=detail) for name, kind, detail in index.left_out
        ]
    classes = next((index.classes for index in indexes if index.classes), [])
    labels = {one.label for images in splits.values() for one in images if one.label}
    classes = classes or (classes_of(labels) if labels else [UNLABELED])
    if labels:
        splits, without = _labelled(splits, classes)
        left_out += without
    if not splits["train"]:
        raise UserError(f"{where}: no image to train on. Files whose names say test or val are the test split.")
    number_of = {name: label for label, name in enumerate(classes)} if labels else {"": 0}
    return RawDataset(
        classes=tuple(classes if labels else [UNLABELED]),
        splits={name: _split(images, number_of, readers) for name, images in splits.items() if images},
        left_out=tuple(left_out),
    )


def _labelled(splits: dict[str, list[_One]], classes: Sequence[str]) -> tuple[dict[str, list[_One]], list[LeftOut]]:
    """Leave out images without a label where others have one; a test split without any is passed over as a whole."""
    if splits["test"] and not any(one.label for one in splits["test"]):
        logger.warning("The %d images of the test split have no labels and are not used.", len(splits["test"]))
        splits = splits | {"test": []}
    known = set(classes)
    good = {split: [one for one in images if one.label in known] for split, images in splits.items()}
    bad = [one for images in splits.values() for one in images if one.label not in known]
    return good, [
        LeftOut(name=one.name, kind="label of no class" if one.label else "no label", detail=one.label) for one in bad
    ]


def _decoded(one: _One, readers: Sequence[Reader]) -> Image.Image:
    content, decode = readers[one.file](one.place)
    if hashlib.sha256(content).hexdigest() != one.digest:  # the size of a tar may stay the same
        raise UserError(f"{one.name}: has changed since it was listed. Run `dvc repro` to list the images anew.")
    return decode()


def _split(images: Sequence[_One], number_of: dict[str, int], readers: Sequence[Reader]) -> RawSplit:
    return RawSplit(
        labels=np.array([number_of[one.label] for one in images], dtype=np.int64),
        decode=lambda number: _decoded(images[number], readers),
        names=[one.name for one in images],
        digests=[one.digest for one in images],
    )
