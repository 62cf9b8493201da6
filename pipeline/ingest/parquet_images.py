"""Parquet files with a column of images: Hugging Face's struct<bytes, path>, or plain bytes.

A column's and the classes' names are taken from Hugging Face's entry in the schema's metadata where there is one. One
row group at a time is read, and the last few are kept, as images are asked for in their order by several threads.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.errors import UserError, nearest
from pipeline.ingest.decode import decode
from pipeline.ingest.packed_images import LABELS, Index, PackedImages, Reader
from pipeline.ingest.source import UnreadableError

_IMAGES = ("image", "img", "images", "jpg", "png", "picture", "photo", "bytes")  # names, in the order of preference
_KEPT_BYTES = 256 * 2**20  # of row groups, but for the last one read
_KEPT_GROUPS = 16  # threads ask for images that are some hundred rows apart


@dataclass(frozen=True)
class ParquetImages(PackedImages):
    """Finds the images and labels of each file, and reads images by row group."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def index(self, file: Path, labels: str, scratch: Path) -> Index:
        try:
            table = pq.ParquetFile(file, memory_map=True)
            image, label = _columns(table.schema_arrow, labels)
            names = _class_names(_features(table.schema_arrow).get(label, {})) if label else []
            index = Index(classes=names)
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=[image, *([label] if label else [])])
                found = rows.column(label).to_pylist() if label else [None] * len(rows)
                for row, (cell, value) in enumerate(zip(rows.column(image), found, strict=True)):
                    _add(index, (group, row), cell, _label(value, names))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"no readable Parquet file ({error}). Replace it, and run `dvc repro`.") from error
        return index

    def reader(self, file: Path, scratch: Path, stack: ExitStack) -> Reader:
        groups = _RowGroups(file)

        def read(place: Sequence[int]) -> tuple[bytes, Callable[[], Image.Image]]:
            content, _ = _content(groups.column(place[0])[place[1]])
            return content, partial(decode, content)

        return read


@dataclass
class _RowGroups:
    """The image column of the row groups of one file; each is read once while it is kept."""

    file: Path
    lock: Lock = field(default_factory=Lock)
    kept: "OrderedDict[int, Future[pa.ChunkedArray]]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.metadata = pq.read_metadata(self.file)
        self.image, _ = _columns(self.metadata.schema.to_arrow_schema(), "none")

    def column(self, group: int) -> pa.ChunkedArray:
        """Return the images of a row group; waits while another thread reads it."""
        with self.lock:
            found = self.kept.get(group)
            mine = found is None
            if found is None:
                found = self.kept[group] = Future()
            self.kept.move_to_end(group)
        if mine:
            try:
                table = pq.ParquetFile(self.file, metadata=self.metadata, memory_map=True)
                found.set_result(table.read_row_group(group, columns=[self.image]).column(self.image))
            except BaseException as error:
                found.set_exception(error)
            with self.lock:
                self._drop()
        try:
            return found.result()
        except (pa.ArrowException, OSError) as error:
            raise UnreadableError("damaged in its file", str(error)) from error

    def _drop(self) -> None:
        """Forget the row groups that were used the longest ago."""
        while len(self.kept) > _KEPT_GROUPS or (len(self.kept) > 1 and self._bytes() > _KEPT_BYTES):
            self.kept.popitem(last=False)

    def _bytes(self) -> int:
        done = (one for one in self.kept.values() if one.done() and not one.exception())
        return sum(one.result().nbytes for one in done)


def _columns(schema: pa.Schema, labels: str) -> tuple[str, str | None]:
    """Return the columns of images and of labels."""
    features = _features(schema)
    images = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    images += _preferred(schema.names, _IMAGES)
    images += [name for name in schema.names if pa.types.is_struct(schema.field(name).type)]
    image = next((name for name in images if _holds_bytes(schema.field(name).type)), None)
    if image is None:
        listed = ", ".join(schema.names)
        raise UserError(f"none of its columns ({listed}) holds images as bytes, or as a struct of bytes and path.")
    if labels == "none":
        return image, None
    if labels not in ("auto", "folders"):
        if labels not in schema.names:
            raise UserError(f"params.yaml: data.labels: no column '{labels}'. {nearest(labels, schema.names)}")
        return image, labels
    named = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    likely = [name for name in _preferred(schema.names, LABELS) if _holds_labels(schema.field(name).type)]
    return image, next(iter([*_preferred(named, LABELS), *named, *likely]), None)


def _preferred(names: Sequence[str], known: Sequence[str]) -> list[str]:
    lower = {name.lower(): name for name in names}
    return [lower[name] for name in known if name in lower]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(one.name == "bytes" and _holds_bytes(one.type) for one in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _features(schema: pa.Schema) -> Mapping[str, Mapping[str, Any]]:
    """Return what Hugging Face's datasets have written of the columns."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: about for name, about in found.items() if isinstance(about, dict)} if isinstance(found, dict) else {}


def _class_names(feature: Mapping[str, Any]) -> list[str]:
    names = feature.get("names")
    if isinstance(names, dict):  # as older versions have it
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names] if isinstance(names, list) else []


def _label(value: Any, names: Sequence[str]) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise UserError("params.yaml: data.labels: an image has several labels there. Name another column, or none.")
    known = names and isinstance(value, int) and 0 <= value < len(names)
    return names[value] if known else str(value)


def _add(index: Index, place: tuple[int, int], cell: pa.Scalar, label: str) -> None:
    name = f"{place[0]:05}-{place[1]:06}"
    try:
        content, path = _content(cell)
        index.add(f"{name} {path}".strip(), hashlib.sha256(content).hexdigest(), label, place)
    except UnreadableError as error:
        index.left_out.append([name, error.kind, error.detail])


def _content(cell: pa.Scalar) -> tuple[bytes, str]:
    """Return an image's bytes and path; UnreadableError if the file lacks it."""
    value = cell.as_py()
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if content is None:
        detail = f"only its path, {path}" if path else ""
        raise UnreadableError("image is not in the file", detail)
    return content, path or ""
