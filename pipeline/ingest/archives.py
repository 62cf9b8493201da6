"""Members of tar and zip archives, read where they lie: none is unpacked to the disk, and one is in memory at a time.

A tar is read by offset, from any number of threads at once. A compressed one can't be, so it is decompressed once, to a
tar beside the downloads; hundreds of thousands of small files are never made.
"""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.files import atomic_file, locked
from pipeline.ingest.source import UnreadableError

PACKED = (".tar.gz", ".tgz")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, OSError, NotImplementedError)
"""What reading a damaged archive raises; RuntimeError of zipfile for a password is among what ``read`` turns."""
_MOST_BYTES = 2**30  # of one member


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: as it is in the archive, without ./ before it.
        offset: of its first byte.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


class Archive(ABC):
    """An archive that is open for reading, from any number of threads.

    Attributes:
        path: the file.
        names: of its members that are files, in its order.
    """

    path: Path
    names: Collection[str]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a member; UnreadableError if it is damaged, KeyError if there is none."""


class TarArchive(Archive):
    """A tar without compression; of several members of one name the last counts, as for tar itself."""

    def __init__(self, path: Path, members: Iterable[Member]) -> None:
        self.path = path
        self.numbers: dict[str, int] = {}
        self.offsets, self.sizes = array("q"), array("q")  # millions of tuples would need ten times the memory
        for number, member in enumerate(members):
            self.numbers[member.name] = number
            self.offsets.append(member.offset)
            self.sizes.append(member.size)
        self.names = self.numbers.keys()
        self.file = os.open(path, os.O_RDONLY)

    def read(self, name: str) -> bytes:
        number = self.numbers[name]
        return read_at(self.file, self.offsets[number], self.sizes[number])

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


class ZipArchive(Archive):
    """A zip."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.path, self.archive = path, archive
        self.names = {member.filename: None for member in archive.infolist() if not member.is_dir()}.keys()

    def read(self, name: str) -> bytes:
        size = self.archive.getinfo(name).file_size
        if size > _MOST_BYTES:
            raise UnreadableError("too large", f"{size} bytes")
        try:
            with self.archive.open(name) as file:
                return file.read(size + 1)  # no more than the header declares
        except (*DAMAGED, RuntimeError) as error:
            raise UnreadableError("damaged in its archive", str(error)) from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip, or a tar that is not compressed.

    Args:
        path: the file.

    Yields:
        The archive, whose members may be read from several threads at once.

    Raises:
        tarfile.TarError, zipfile.BadZipFile, OSError: it is no such archive, or is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            yield ZipArchive(opened, path)
        return
    with closing(TarArchive(path, members_of(path))) as archive:
        yield archive


def members_of(path: Path, start: int = 0) -> Iterator[Member]:
    """Yield the regular files of a tar that is not compressed.

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
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all in memory
                if member.isreg() and not member.issparse():
                    yield Member(member.name.removeprefix("./"), member.offset_data, member.size)
            file.seek(archive.offset)
            if any(block := file.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end, in silence
                raise tarfile.ReadError(f"no header of a member at byte {archive.offset}, but {block[:16]!r}...")


def read_at(file: int, offset: int, size: int) -> bytes:
    """Return bytes of an open file; UnreadableError if they are too many, or it ends before them."""
    if size > _MOST_BYTES:
        raise UnreadableError("too large", f"{size} bytes")
    content = os.pread(file, size, offset)
    while len(content) < size and (more := os.pread(file, size - len(content), offset + len(content))):
        content += more
    if len(content) < size:
        raise UnreadableError("damaged in its archive", f"{len(content)} of {size} bytes")
    return content


def decompress(packed: Path, plain: Path) -> None:
    """Decompress a .gz file to a file that appears when it is whole; does nothing if it is there.

    Args:
        packed: the .gz file.
        plain: the file to make; another process that makes it is waited for.

    Raises:
        gzip.BadGzipFile, EOFError, zlib.error: it is damaged.
    """
    with locked(Path(f"{plain}.lock"), wait=None, announce=f"waiting for another process that decompresses {packed}"):
        if plain.exists():
            return
        with atomic_file(plain) as temporary, gzip.open(packed) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
