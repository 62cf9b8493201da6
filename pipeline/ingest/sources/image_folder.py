"""A user's own images: a folder or a zip or tar archive, flat or of class folders; see layout.py and labels.py.

The images stay where they are. The stage download writes down which there are, and each one's class, split and hash:

    files.csv     the files, see listing.py
    images.csv    name, file (its number in files.csv), member (of an archive), sha256, label, split, problem, detail
    classes.json  the classes' names, by label
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.files import rows_of, write_csv, write_json
from pipeline.ingest.archives import Archive, is_archive, open_archive
from pipeline.ingest.decode import SUFFIXES, decode
from pipeline.ingest.labels import read_table
from pipeline.ingest.layout import TEST_ALONE, Layout, arrange
from pipeline.ingest.listing import is_url
from pipeline.ingest.originals import Original, check, keep_listing, originals, read, read_unlisted, unlisted
from pipeline.ingest.parallel import in_threads
from pipeline.ingest.source import LeftOut, Origin, RawDataset, RawSplit, Source, UnreadableError, unusable

_IMAGES, _CLASSES = "images.csv", "classes.json"
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Row:
    """An image of images.csv; with a problem it has no split, and a label where its class is known all the same."""

    name: str
    file: int  # number in files.csv
    member: str  # of an archive; empty: the file itself
    sha256: str
    label: int
    split: str
    problem: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A file or an archive's member: how to read it, and why not."""

    name: str
    file: int
    member: str
    read: Callable[[], bytes]
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ImageFolder(Source):
    """Leaves the images in their place and writes down what they are."""

    own: ClassVar[bool] = True

    def download(self, origin: Origin, raw: Path) -> None:
        keep_listing(origin, raw)
        with ExitStack() as stack:
            found = _found(originals(raw, origin), origin, stack, read)
            layout = _layout(found, origin)
            _write(raw / _IMAGES, _rows(found, layout, origin))
        write_json(raw / _CLASSES, list(layout.classes))

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        if any(map(is_url, origin.paths)):
            return None
        with ExitStack() as stack:
            return _layout(_found(unlisted(origin), origin, stack, read_unlisted), origin).classes

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        try:
            classes = tuple(map(str, json.loads((raw / _CLASSES).read_text())))
            rows = _read(raw / _IMAGES)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise unusable(raw, error) from error
        files = originals(raw, origin)
        with ExitStack() as stack:
            archives = {
                number: stack.enter_context(open_archive(check(files[number]), origin.downloads))
                for number in sorted({row.file for row in rows if row.member})
            }
            good = [row for row in rows if not row.problem]
            splits = {name: [row for row in good if row.split == name] for name in ("train", "test")}
            yield RawDataset(
                classes=classes,
                splits={name: _split(chosen, files, archives) for name, chosen in splits.items() if chosen},
                left_out=tuple(
                    LeftOut(name=row.name, kind=row.problem, detail=row.detail, of=_class_of(row, classes))
                    for row in rows
                    if row.problem
                ),
            )


def looks_like_image(name: str) -> bool:
    """Tell an image that counts by its path: it has a known suffix, and nothing on the way to it is hidden."""
    path = PurePosixPath(name)
    hidden = any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _layout(found: Sequence[_Found], origin: Origin) -> Layout:
    where, readers = ", ".join(origin.paths), {one.name: one.read for one in found}
    labels, table = read_table(origin.labels, list(readers), lambda name: readers[name](), where)
    return arrange(filter(looks_like_image, readers), where, labels, table)


def _found(
    files: Sequence[Original], origin: Origin, stack: ExitStack, read: Callable[[Original], bytes]
) -> list[_Found]:
    """Return every file, with how to read it, and in the place of an archive its members."""
    found: list[_Found] = []
    whole = {path for path, count in Counter(file.path for file in files).items() if count == 1}
    for number, file in enumerate(files):
        name = _name(file, origin)
        if file.problem:
            found.append(_Found(name, number, "", partial(_refuse, file.problem), problem=file.problem))
        elif file.path in whole and is_archive(file.file):
            archive = stack.enter_context(open_archive(file.file, origin.downloads))
            for member, problem in archive.members().items():
                found.append(_Found(member, number, member, partial(archive.read, member), problem=problem))
        else:
            found.append(_Found(name, number, "", partial(read, file), file.sha256))
    if twice := [name for name, count in Counter(one.name for one in found).items() if count > 1]:
        raise UserError(f"params.yaml: data.path: '{twice[0]}' is there twice. Name each folder or archive once.")
    return found


def _name(file: Original, origin: Origin) -> str:
    """Return a file's name; of several folders in data.path each one's name stands before those of its files."""
    folder = PurePosixPath(origin.paths[file.path].rstrip("/")).name
    return f"{folder}/{file.name}" if len(origin.paths) > 1 and folder != file.name else file.name


def _refuse(problem: str) -> bytes:
    raise UnreadableError(problem)


def _rows(found: Sequence[_Found], layout: Layout, origin: Origin) -> list[_Row]:
    """Return the images, those of an archive with their hashes, for which each is read once."""
    left_out = {one.name: one for one in layout.left_out}
    images = [one for one in found if looks_like_image(one.name)]
    rows = []
    hashed = in_threads(_hashed, images, _THREADS)
    for done, (one, (sha256, kind, detail)) in enumerate(zip(images, hashed, strict=True), start=1):
        if not kind and one.name in left_out:
            kind, detail = left_out[one.name].kind, left_out[one.name].detail
        split, label = "" if kind else layout.splits[one.name], layout.labels.get(one.name, -1)
        rows.append(_Row(one.name, one.file, one.member, sha256, label, split, kind, detail))
        if done % 256 == 0 or done == len(images):
            origin.report("reading the archive" if one.member else "listing images", done, len(images))
    return rows


def _class_of(row: _Row, classes: Sequence[str]) -> str | None:
    """Return the name of the class that an image would be of, or None."""
    known = classes[row.label] if row.label >= 0 else None
    return row.detail if row.problem == TEST_ALONE else known


def _hashed(one: _Found) -> tuple[str, str, str]:
    """Return an image's hash, or an empty one and why it can't be read."""
    if one.problem or not one.member:
        return one.sha256, one.problem, ""
    try:
        return hashlib.sha256(one.read()).hexdigest(), "", ""
    except UnreadableError as error:
        return "", error.kind, error.detail


def _split(rows: Sequence[_Row], files: Sequence[Original], archives: dict[int, Archive]) -> RawSplit:
    def image(number: int) -> Image.Image:
        row = rows[number]
        return decode(archives[row.file].read(row.member) if row.member else read(files[row.file]))

    return RawSplit(
        labels=np.array([row.label for row in rows], dtype=np.int64),
        decode=image,
        names=[row.name for row in rows],
        digests=[row.sha256 for row in rows],
    )


def _write(path: Path, rows: Sequence[_Row]) -> None:
    columns = [column.name for column in fields(_Row)]
    write_csv(path, columns, map(attrgetter(*columns), sorted(rows, key=attrgetter("name"))))


def _read(path: Path) -> list[_Row]:
    return [
        _Row(
            name=row["name"],
            file=int(row["file"]),
            member=row["name"] if row["member"] == row["name"] else row["member"],  # one string, not two
            sha256=row["sha256"],
            label=int(row["label"]),
            split=sys.intern(row["split"]),
            problem=row["problem"],
            detail=row["detail"],
        )
        for row in rows_of(path)
    ]


SOURCE = ImageFolder()
