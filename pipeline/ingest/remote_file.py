"""A file of a dataset's publisher: where it is, and by which hash it is known."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.ingest.download import DamagedError, obtain, obtain_all
from pipeline.ingest.source import Origin

_MOST_BYTES = 2**28  # in a .gz file whose hash isn't the published one: a decompression bomb ends there


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of the dataset's publisher.

    Attributes:
        name: the file's name under each URL prefix.
        urls: URL prefixes; none if no program may download it.
        digest: 'algorithm:hexdigest' of the file.
        content: the same of what a .gz file holds, if it is known: recompressed copies pass too.
    """

    name: str
    urls: tuple[str, ...]
    digest: str
    content: str | None = None

    @classmethod
    def at(cls, url: str, md5: str) -> "RemoteFile":
        """Return the file at a URL."""
        prefix, _, name = url.rpartition("/")
        return cls(name=name, urls=(prefix,), digest=f"md5:{md5}")

    def check(self, path: Path) -> None:
        """Compare a file with the published one.

        Args:
            path: the file.

        Raises:
            DamagedError: it's another file.
        """
        algorithm, _, digest = self.digest.partition(":")
        with path.open("rb") as file:
            if hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest() == digest:
                return
        if self.content is None:
            raise DamagedError(f"not the published file (expected {algorithm} {digest})")
        algorithm, _, digest = self.content.partition(":")
        if _hash_of_content(path, algorithm) != digest:
            raise DamagedError(f"what is in it is not the published file (expected {self.content})")


def fetch(files: Sequence[RemoteFile], origin: Origin, by_hand: str = "", *, large: bool = False) -> list[Path]:
    """Return checked copies of files, several of which are downloaded at a time.

    Args:
        files: of one dataset.
        origin: where to get them from.
        by_hand: how a person gets those that no program may download.
        large: a file that has not changed since it was checked is not read again.

    Returns:
        Their paths, in order; see ``download.obtain``.

    Raises:
        UserError: a file can't be had; it says what a person has to do.
    """
    if origin.mirror is None and any(not file.urls for file in files):
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"params.yaml: data.source: {by_hand} Put {names} into a folder, and set data.mirror to that folder."
        )
    check = _check_once if large else _check
    return obtain_all(lambda file: obtain(file.name, file.urls, origin, partial(check, file, origin)), files)


def _check(file: RemoteFile, origin: Origin, path: Path) -> None:
    file.check(path)


def _check_once(file: RemoteFile, origin: Origin, path: Path) -> None:
    seen = path.stat()
    stamp = origin.downloads / f"{file.name}.checked.json"
    state = [file.digest, str(path.resolve()), seen.st_size, seen.st_mtime_ns]
    if not stamp.exists() or json.loads(stamp.read_text()) != state:
        file.check(path)
        write_json(stamp, state)


def _hash_of_content(path: Path, algorithm: str) -> str:
    """Return the hex digest of what a .gz file holds; DamagedError if it can't be unpacked."""
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with gzip.open(path) as file:
            while block := file.read(2**20):
                digest.update(block)
                size += len(block)
                if size > _MOST_BYTES:
                    raise DamagedError(f"it unpacks to more than {_MOST_BYTES} bytes")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedError(f"not a whole gzip file ({error})") from error
    return digest.hexdigest()
