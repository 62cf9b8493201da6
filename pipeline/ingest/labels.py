"""Tables of labels that lie among images: dataset.json of StyleGAN and EDM, CSV and JSON lines.

dataset.json                  {"labels": [["00000/img00000000.png", 6], ...]}, or null for no labels
metadata.csv, metadata.jsonl  file_name and label, as Hugging Face's image folders have them
any other .csv, .tsv, .jsonl  named in data.labels, with :column where the label's column has another name
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError, nearest

STYLEGAN = "dataset.json"
_METADATA = ("metadata.csv", "metadata.jsonl")
_FILES = ("file_name", "filename", "file", "path", "image", "image_id", "name")  # columns, in the order of preference
_LABELS = ("label", "labels", "class", "category", "target")
_SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
WAYS = ("auto", "folders", "none")


@dataclass(frozen=True)
class Entry:
    """What a table says of an image: the class's name, and 'train', 'test' or None."""

    label: str
    split: str | None = None


@dataclass(frozen=True)
class Table:
    """Labels by file.

    Attributes:
        name: of the table's file, for messages.
        folder: the folder that it lies in, to which its paths are relative.
        entries: by path.
    """

    name: str
    folder: PurePosixPath
    entries: Mapping[str, Entry]

    def find(self, image: str) -> Entry | None:
        """Return what is said of an image, by its path relative to the table's folder, or None."""
        path = PurePosixPath(image)
        relative = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        return self.entries.get(relative.as_posix())

    def classes(self, labels: Iterable[str]) -> list[str]:
        """Return the classes of labels: 0 to the largest if all are whole numbers, else the names, sorted."""
        names = set(labels)
        if all(name.isascii() and name.isdigit() for name in names):
            largest = max(map(int, names))
            if largest < 10 * len(names) + 10:  # not somebody's identities
                return [str(number) for number in range(largest + 1)]
            return sorted(names, key=int)
        return sorted(names)


def read_table(labels: str, files: Sequence[str], read: Callable[[str], bytes], where: str) -> tuple[str, Table | None]:
    """Find and read the table of labels that ``data.labels`` asks for.

    Args:
        labels: 'auto', 'folders', 'none' or the name of a file among the images, with ':column' if need be.
        files: relative paths of all files, images or not.
        read: returns the content of one of them.
        where: the folder or archive, for messages.

    Returns:
        'auto', 'folders' or 'none', and the table if there is one: then it decides.

    Raises:
        UserError: there is no such file, or it is no table of labels.
    """
    if labels in ("folders", "none"):
        return labels, None
    if labels == "auto":
        return _found(files, read, where)
    name, _, column = labels.partition(":")
    chosen = [file for file in files if file == name or file.endswith(f"/{name}")]
    if not chosen:
        tables = [file for file in files if file.endswith((".csv", ".tsv", ".json", ".jsonl"))]
        raise UserError(
            f"params.yaml: data.labels: {where} has no file '{name}'. {nearest(name, tables)} Name one in it, or auto, "
            "folders or none."
        )
    file = min(chosen, key=len)
    if file.endswith(".json"):
        return _stylegan(file, read(file), where)
    entries = _entries(file, read(file), column or None)
    return "auto", Table(PurePosixPath(file).name, PurePosixPath(file).parent, entries)


def _found(files: Sequence[str], read: Callable[[str], bytes], where: str) -> tuple[str, Table | None]:
    """Look for a table that tools write under a fixed name, nearest to the top."""
    for known in (STYLEGAN, *_METADATA):
        if chosen := [file for file in files if PurePosixPath(file).name == known]:
            file = min(chosen, key=len)
            if known == STYLEGAN:
                return _stylegan(file, read(file), where)
            rows = list(_rows(file, read(file)))
            if rows and _column(rows[0], _FILES) and _column(rows[0], _LABELS):
                return "auto", Table(known, PurePosixPath(file).parent, _entries(file, read(file), None))
    return "auto", None


def _stylegan(file: str, content: bytes, where: str) -> tuple[str, Table | None]:
    """Read the labels of StyleGAN's dataset.json: whole numbers, or vectors of which one entry is 1."""
    try:
        labels = json.loads(content)["labels"]
        if labels is None:
            return "none", None
        entries = {str(name): Entry(_class_of(label)) for name, label in labels}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: {file}: no labels of StyleGAN's format ({error}). Set data.labels: none to train without."
        ) from error
    return "auto", Table(PurePosixPath(file).name, PurePosixPath(file).parent, entries)


def _class_of(label: Any) -> str:
    if isinstance(label, int):
        return str(label)
    if isinstance(label, list) and sorted(label) == [0] * (len(label) - 1) + [1]:
        return str(label.index(1))
    raise ValueError(f"a label is {label}, neither a whole number nor a vector of zeros and a single one")


def _entries(file: str, content: bytes, column: str | None) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    named = labelled = None
    for row in _rows(file, content):
        if named is None:
            named, labelled = _column(row, _FILES), column or _column(row, _LABELS)
            if named is None or labelled is None or labelled not in row:
                wanted = column or " or ".join(_LABELS)
                raise UserError(
                    f"params.yaml: data.labels: {file} has the columns {', '.join(row)}; {_FILES[0]} and {wanted} are "
                    f"needed. Name the label's column: {PurePosixPath(file).name}:COLUMN."
                )
        label = row.get(labelled or "")
        if label not in (None, ""):
            split = _SPLITS.get(str(row.get("split", "")).lower())
            entries[PurePosixPath(str(row[named])).as_posix()] = Entry(str(label), split)
    return entries


def _rows(file: str, content: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
        if file.endswith(".jsonl"):
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
        else:
            yield from csv.DictReader(StringIO(text), delimiter="\t" if file.endswith(".tsv") else ",")
    except (ValueError, csv.Error) as error:
        raise UserError(f"params.yaml: data.labels: {file} can't be read ({error}). Save it as UTF-8.") from error


def _column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of these columns that a row has, whatever their case."""
    lower = {key.lower(): key for key in row if isinstance(key, str)}
    return next((lower[name] for name in names if name in lower), None)
