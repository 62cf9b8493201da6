"""Members of zip and tar archives, read in their place: no archive is ever unpacked to the disk.

A compressed tar has no places to read from, so it is unpacked to a plain tar once, in the folder for downloads.
"""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.ingest.decode import MOST_BYTES
from pipeline.ingest.source import UnreadableError

BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
_COMPRESSED: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class Archive(Protocol):
    """An opened archive; members may be read from several threads at once."""

    def members(self) -> Mapping[str, str]:
        """Return by name why a member can't be read: empty if it can."""
        ...

    def read(self, name: str) -> bytes:
        """Return a member's content; UnreadableError if it can't be had."""
        ...


@dataclass(frozen=True)
class _Zip:
    infos: Mapping[str, zipfile.ZipInfo]
    archive: zipfile.ZipFile

    def members(self) -> dict[str, str]:
        return {name: _problem_of_zip(info) for name, info in self.infos.items()}

    def read(self, name: str) -> bytes:
        info = self.infos[name]
        if problem := _problem_of_zip(info):
            raise UnreadableError(problem)
        try:
            with self.archive.open(info) as file:
                return file.read(info.file_size + 1)  # no more than its header declares
        except (*BROKEN, OSError) as error:
            raise UnreadableError("damaged in the archive", str(error)) from error


@dataclass(frozen=True)
class _Tar:
    infos: Mapping[str, tarfile.TarInfo]
    file: int

    def members(self) -> dict[str, str]:
        return {name: _problem_of_tar(info) for name, info in self.infos.items()}

    def read(self, name: str) -> bytes:
        info = self.infos[name]
        if problem := _problem_of_tar(info):
            raise UnreadableError(problem)
        content = os.pread(self.file, info.size, info.offset_data)
        if len(content) != info.size:
            raise UnreadableError("damaged in the archive", f"{len(content)} of {info.size} bytes")
        return content


@contextmanager
def open_archive(path: Path, scratch: Path) -> Iterator[Archive]:
    """Open a zip or tar archive.

    Args:
        path: the archive.
        scratch: where a compressed tar is unpacked to a plain one.

    Yields:
        The archive; it is closed when the block ends.

    Raises:
        UserError: it is neither, or its directory of members is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _Zip({info.filename: info for info in archive.infolist() if not info.is_dir()}, archive)
            return
        plain = _plain(path, scratch)
        with plain.open("rb") as file:
            yield _Tar(_infos(plain), file.fileno())
    except (*BROKEN, OSError) as error:
        raise UserError(f"{path}: no whole zip or tar archive ({error}). Replace it, or name another.") from error


def is_archive(path: Path) -> bool:
    """Tell an archive by its content."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def _problem_of_zip(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "encrypted"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "link in the archive"
    return "too large" if info.file_size > MOST_BYTES else ""


def _problem_of_tar(info: tarfile.TarInfo) -> str:
    if not info.isreg():
        return "link in the archive" if info.issym() else "no regular file in the archive"
    if info.issparse():
        return "file with holes in the archive"
    return "too large" if info.size > MOST_BYTES else ""


def _infos(path: Path) -> dict[str, tarfile.TarInfo]:
    """Return a tar's members by name, without folders; a hard link stands for the member that it names."""
    infos: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            if not info.isdir():
                infos[info.name.removeprefix("./")] = infos.get(info.linkname, info) if info.islnk() else info
    return infos


def _plain(path: Path, scratch: Path) -> Path:
    """Return a tar that is not compressed: the file itself, or what it unpacks to."""
    with path.open("rb") as file:
        start = file.read(6)
    opened = next((opened for magic, opened in _COMPRESSED.items() if start.startswith(magic)), None)
    if opened is None:
        return path
    seen = path.stat()
    target = scratch / f"{path.name}-{seen.st_size}-{seen.st_mtime_ns}.tar"
    if not target.exists():
        with opened(path, "rb") as packed, atomic_file(target) as temporary, temporary.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
    return target
