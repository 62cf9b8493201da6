"""Datasets in MNIST's IDX format: gzipped arrays of uint8 behind a header of big-endian 32-bit sizes."""

import gzip
import hashlib
import math
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.ingest.download import DamagedError, obtain
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

_UINT8 = 0x08


@dataclass(frozen=True, kw_only=True)
class Idx(Source):
    """Four files: the images (n, side, side) and labels (n,) of a training and of a test split.

    urls: prefixes, tried in turn. compressed, decoded: by file name, 'algorithm:hexdigest' of the .gz file
    and of what is in it. A file passes if what is in it has the expected header, size, labels and hash,
    so a mirror may have compressed it anew; the .gz file's published hash stands for the decoded one.
    """

    urls: tuple[str, ...]
    classes: tuple[str, ...]
    compressed: Mapping[str, str]
    decoded: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=lambda: {"train": 60_000, "t10k": 10_000})
    side: int = 28

    def download(self, origin: Origin, raw: Path) -> None:
        for name in self.decoded:
            shutil.copyfile(obtain(name, self.urls, origin, self._check), raw / name)

    @contextmanager
    def open(self, raw: Path) -> Iterator[RawDataset]:
        try:
            splits = {name: self._split(raw, part) for name, part in {"train": "train", "test": "t10k"}.items()}
        except (DamagedError, FileNotFoundError) as error:
            raise unusable(raw, error) from error
        yield RawDataset(classes=self.classes, splits=splits)

    def _split(self, raw: Path, part: str) -> RawSplit:
        images = self._read(raw / f"{part}-images-idx3-ubyte.gz")
        labels = self._read(raw / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
        return RawSplit(labels=labels, decode=lambda number: Image.fromarray(images[number]))

    def _read(self, path: Path) -> NDArray[np.uint8]:
        return _array(_decompress(path, self._shape(path.name)), self._shape(path.name))

    def _shape(self, name: str) -> tuple[int, ...]:
        count = self.counts[name.split("-")[0]]
        return (count, self.side, self.side) if "-images-" in name else (count,)

    def _check(self, path: Path, name: str) -> None:
        shape = self._shape(name)
        content = _decompress(path, shape)
        array = _array(content, shape)
        if array.ndim == 1 and array.max(initial=0) >= len(self.classes):
            raise DamagedError(f"a label of {array.max()}, where there are {len(self.classes)} classes")
        if not _has(content, self.decoded[name]) and not _has(path.read_bytes(), self.compressed[name]):
            raise DamagedError(f"what is in it is not the published file (expected {self.decoded[name]})")


def _decompress(path: Path, shape: tuple[int, ...]) -> bytes:
    """The whole content; never reads more than the shape needs, so a decompression bomb stays small."""
    needed = 4 + 4 * len(shape) + math.prod(shape)
    try:
        with gzip.open(path) as file:
            content = file.read(needed + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedError(f"not a whole gzip file ({error})") from error
    if len(content) != needed:
        raise DamagedError(f"{'more' if len(content) > needed else 'fewer'} than the expected {needed} bytes in it")
    return content


def _array(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    header = struct.pack(f">{1 + len(shape)}I", _UINT8 << 8 | len(shape), *shape)
    if not content.startswith(header):
        raise DamagedError(f"its header is not that of uint8 images or labels of shape {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)


def _has(content: bytes, expected: str) -> bool:
    algorithm, _, digest = expected.partition(":")
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest
