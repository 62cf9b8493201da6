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
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.errors import UserError
from pipeline.files import atomic_file, locked
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


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: without ./ before it.
        offset: of its first byte in the tar.
        size: in bytes.
        problem: why it can't be read; empty if it can.
        link: of a hard link, the member that it stands for.
    """

    name: str
    offset: int
    size: int
    problem: str = ""
    link: str = ""


class Tar:
    """A tar without compression; it takes little memory for millions of members.

    Attributes:
        path: the file.
        numbers: by name, the places of a member's offset and size.
        offsets: of the members' first bytes.
        sizes: in bytes.
    """

    def __init__(self, path: Path, members: Iterable[Member]) -> None:
        """Open a tar.

        Args:
            path: the file.
            members: in order; of several of one name the last one counts, as for tar itself.
        """
        self.path, self.numbers, self.problems = path, dict[str, int](), dict[str, str]()
        self.offsets, self.sizes = array("q"), array("q")
        for member in members:
            self.numbers[member.name] = self.numbers.get(member.link, len(self.offsets))
            self.offsets.append(member.offset)
            self.sizes.append(member.size)
            self.problems.pop(member.name, None)
            if member.problem:
                self.problems[member.name] = member.problem
        self.file = os.open(path, os.O_RDONLY)

    def members(self) -> dict[str, str]:
        """Return by name why a member can't be read: empty if it can."""
        return {name: self.problems.get(name, "") for name in self.numbers}

    def read(self, name: str) -> bytes:
        """Return a member's content; UnreadableError if it can't be had."""
        if problem := self.problems.get(name):
            raise UnreadableError(problem)
        number = self.numbers[name]
        return read_at(self.file, self.offsets[number], self.sizes[number])

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


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
        plain = plain_tar(path, scratch)
        with closing(Tar(plain, members_of(plain))) as tar:
            yield tar
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


def members_of(path: Path, start: int = 0) -> Iterator[Member]:
    """Yield the members of a tar that is not compressed, but for folders.

    Args:
        path: the file.
        start: where the tar begins in it, if it is a member of another.

    Yields:
        The members in order; their offsets count from the beginning of the file.

    Raises:
        tarfile.TarError: it is damaged.
    """
    with path.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all in memory
                if not info.isdir():
                    link = info.linkname.removeprefix("./") if info.islnk() else ""
                    name, problem = info.name.removeprefix("./"), "" if link else _problem_of_tar(info)
                    yield Member(name, info.offset_data, info.size, problem, link)
            file.seek(archive.offset)
            if any(block := file.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end, in silence
                raise tarfile.ReadError(f"no header of a member at byte {archive.offset}, but {block[:16]!r}")


def read_at(file: int, offset: int, size: int) -> bytes:
    """Return bytes of an open file, from any thread; UnreadableError if it ends before them."""
    content = os.pread(file, size, offset)
    if len(content) != size:
        raise UnreadableError("damaged in the archive", f"{len(content)} of {size} bytes")
    return content


def plain_tar(path: Path, scratch: Path, name: str | None = None) -> Path:
    """Return a tar that is not compressed: the file itself, or what it unpacks to.

    Args:
        path: the tar.
        scratch: the folder of what is unpacked; another process that unpacks the same is waited for.
        name: of the unpacked file; None: made of the tar's name, size and time.

    Returns:
        The path of the plain tar.

    Raises:
        OSError, EOFError, zlib.error, lzma.LZMAError: it is damaged.
    """
    with path.open("rb") as file:
        start = file.read(6)
    opened = next((opened for magic, opened in _COMPRESSED.items() if start.startswith(magic)), None)
    if opened is None:
        return path
    seen = path.stat()
    target = scratch / (name or f"{path.name}-{seen.st_size}-{seen.st_mtime_ns}.tar")
    with locked(Path(f"{target}.lock"), wait=None, announce=f"waiting for another process that unpacks {path}"):
        if not target.exists():
            with opened(path, "rb") as packed, atomic_file(target) as temporary, temporary.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 2**20)
    return target
