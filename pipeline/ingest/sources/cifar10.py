"""CIFAR-10: 60,000 photographs in ten classes, 32x32, RGB (Krizhevsky, "Learning multiple layers of features", 2009).

The Python archive, not the binary one: the md5 of each of its members is published, so the content can
be checked however the archive was packed. The members are pickles. None is decoded before its md5 is
right, and then by an unpickler that makes numpy arrays and builtin containers and nothing else.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

from pipeline.ingest.download import DamagedError, obtain
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

_MOST_BYTES = 2**30  # of the unpacked archive, which has 186 MB: a bomb is put out there


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """train, test, meta: the members of the archive, and the md5 of each."""

    url: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]

    def download(self, origin: Origin, raw: Path) -> None:
        prefix, _, name = self.url.rpartition("/")
        archive = obtain(name, [prefix], origin, lambda path, _: self._check(path))
        shutil.copyfile(archive, raw / name)

    @contextmanager
    def open(self, raw: Path) -> Iterator[RawDataset]:
        """Holds the decoded dataset in memory: 184 MB."""
        try:
            dataset = self._decode(self._members(raw / self.url.rpartition("/")[2]))
        except (DamagedError, FileNotFoundError) as error:
            raise unusable(raw, error) from error
        yield dataset

    def _decode(self, members: Mapping[str, bytes]) -> RawDataset:
        classes = tuple(_unpickle(members[next(iter(self.meta))])["label_names"])
        return RawDataset(classes, {"train": _split(members, self.train), "test": _split(members, self.test)})

    def _check(self, archive: Path) -> None:
        self._members(archive)

    def _members(self, archive: Path) -> dict[str, bytes]:
        """The wanted members' bytes, each with the published md5. Nothing is written to the disk."""
        wanted = {**self.train, **self.test, **self.meta}
        try:
            with gzip.open(archive) as unpacked, tarfile.open(fileobj=_Bounded(unpacked), mode="r|") as tar:
                found = dict(_wanted(tar, wanted))
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedError(f"not a whole tar.gz archive ({error})") from error
        if missing := wanted.keys() - found.keys():
            raise DamagedError(f"it has no member {', '.join(sorted(missing))}")
        return found


class _Bounded(io.RawIOBase):
    """Reads from a stream, but never more than an honest archive has, all told or at once."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = _MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise DamagedError(f"it unpacks to more than {_MOST_BYTES} bytes")
        self._left -= size
        return self._stream.read(size)


def _wanted(tar: tarfile.TarFile, md5s: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        name = member.name.rpartition("/")[2]
        content = tar.extractfile(member) if name in md5s else None
        if content is None:
            continue
        data = content.read()
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5s[name]:
            raise DamagedError(f"its member {member.name} is not the published one (expected md5 {md5s[name]})")
        yield name, data


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names that a pickled numpy array needs; numpy has moved the first since then."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise DamagedError(f"its pickle asks for {module}.{name}")
        return self._KNOWN[module, name]


def _unpickle(content: bytes) -> dict[str, Any]:
    # latin1: these pickles were written by Python 2, whose strings are bytes.
    loaded: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    return loaded


def _split(members: Mapping[str, bytes], names: Mapping[str, str]) -> RawSplit:
    batches = [_unpickle(members[name]) for name in names]
    # (n, 3 * 32 * 32), a plane for each channel, to (n, h, w, c)
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([np.asarray(batch["labels"], dtype=np.int64) for batch in batches])
    return RawSplit(labels=labels, decode=lambda number: Image.fromarray(np.ascontiguousarray(images[number])))


SOURCE = Cifar(
    url=CIFAR10.url,
    train=dict(CIFAR10.train_list),
    test=dict(CIFAR10.test_list),
    meta={CIFAR10.meta["filename"]: CIFAR10.meta["md5"]},
)
