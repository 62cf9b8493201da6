"""WebDataset shards: tars in which the files of a sample share a key; data.path is a shard, a folder or a pattern.

The key of a file is its path up to the first dot of its name: a.jpg, a.cls and a.json are one sample, and so are
a.1.jpg and a.2.jpg, which can't be used. The files of a sample need not be adjacent here. Labels are from .cls, else
from .json, in which data.labels may name the field. Shards are read in their place.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.archives import BROKEN, Member, members_of, plain_tar, read_at
from pipeline.ingest.decode import SUFFIXES, decode
from pipeline.ingest.packed_images import LABELS, Index, PackedImages, Reader
from pipeline.ingest.source import UnreadableError


@dataclass(frozen=True)
class WebDataset(PackedImages):
    """Finds the samples of each shard, and reads images by their offsets."""

    suffixes: ClassVar[tuple[str, ...]] = (".tar", ".tar.gz", ".tgz")

    def index(self, file: Path, labels: str, scratch: Path) -> Index:
        index, samples = Index(), dict[str, dict[str, list[Member]]]()
        try:
            tar = plain_tar(file, scratch)
            for member in members_of(tar):
                key, suffix = key_of(member.name)
                if not PurePosixPath(member.name).name.startswith("."):
                    samples.setdefault(key, {}).setdefault(suffix, []).append(member)
        except (*BROKEN, OSError) as error:
            raise UserError(f"damaged ({error}). Replace it, and run `dvc repro`.") from error
        opened = os.open(tar, os.O_RDONLY)
        try:
            for key, fields in samples.items():
                try:
                    image = _image(fields)
                    content = _content(opened, image)
                    label = _label(opened, fields, labels)
                    place = (image.offset, image.size)
                    index.add(key, hashlib.sha256(content).hexdigest(), label, place)
                except UnreadableError as error:
                    index.left_out.append([key, error.kind, error.detail])
        finally:
            os.close(opened)
        return index

    def reader(self, file: Path, scratch: Path, stack: ExitStack) -> Reader:
        opened = os.open(plain_tar(file, scratch), os.O_RDONLY)
        stack.callback(os.close, opened)

        def read(place: Sequence[int]) -> tuple[bytes, Callable[[], Image.Image]]:
            content = read_at(opened, place[0], place[1])
            return content, partial(decode, content)

        return read


def key_of(name: str) -> tuple[str, str]:
    """Return the key of a file and the rest of its name, in lower case: a/b.c.PNG is the c.png of a/b."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()


def _image(fields: dict[str, list[Member]]) -> Member:
    images = [member for suffix, members in fields.items() if _is_image(suffix) for member in members]
    if not images:
        raise UnreadableError("sample without an image", ", ".join(sorted(fields)))
    if len(images) > 1:
        names = ", ".join(PurePosixPath(member.name).name for member in images[:3])
        raise UnreadableError("several images under one key", f"{names}: the key ends at the first dot")
    return images[0]


def _is_image(suffix: str) -> bool:
    return f".{suffix.rpartition('.')[2]}" in SUFFIXES


def _content(opened: int, member: Member) -> bytes:
    if member.problem:
        raise UnreadableError(member.problem)
    return read_at(opened, member.offset, member.size)


def _label(opened: int, fields: dict[str, list[Member]], labels: str) -> str:
    """Return a sample's label, empty if it has none."""
    if labels == "none":
        return ""
    if labels == "auto" and (found := fields.get("cls")):
        return _content(opened, found[-1]).decode("utf-8", "replace").strip()
    found = fields.get("json")
    if not found:
        return ""
    try:
        about = json.loads(_content(opened, found[-1]))
    except ValueError as error:
        raise UnreadableError("label can't be read", str(error)) from error
    wanted = LABELS if labels == "auto" else (labels,)
    value = next((about[name] for name in wanted if name in about), None) if isinstance(about, dict) else about
    return "" if value is None or isinstance(value, list | dict) else str(value)


SOURCE = WebDataset()
