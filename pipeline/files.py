"""Files and folders that are complete or absent, their hashes, and locks between processes."""

import csv
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import UserError

_logger = logging.getLogger(__name__)
_TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that takes its name if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to ``path`` that replaces it if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with naming(path):
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links; neither may be written to then."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically: indented, with sorted keys and a final newline."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_packed_json(path: Path, value: Any) -> None:
    """Write a large value as JSON for programs alone, atomically: in one line."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, separators=(",", ":"), sort_keys=True))


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table atomically; names of files that are no UTF-8 keep their bytes."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", **_TEXT) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read what ``write_csv`` wrote, a dictionary for each row; ValueError for a row that is too short or too long."""
    return list(rows_of(path))


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield what ``read_csv`` returns, one row at a time."""
    with path.open(newline="", **_TEXT) as file:
        for row in csv.DictReader(file, strict=True):
            if None in row or None in row.values():
                raise ValueError("a row with another number of columns than the header")
            yield row


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(path: Path, sha256: str, remedy: str) -> Path:
    """Return the path of a weights file after checking that it is the published one.

    Args:
        path: the file.
        sha256: hex digest of the published file.
        remedy: what a person can do, the end of the message.

    Returns:
        The path.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file. {remedy}")
    found = sha256_of(path)
    if found != sha256:
        raise UserError(f"{path}: its sha256 is {found}, expected {sha256}. {remedy}")
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to the OSError of a full or failing disk, which names a file when an open fails, but not a write."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, wait: float | None = 0.0, announce: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    The operating system drops the lock when the process ends, even by SIGKILL; the file itself stays. Every call is a
    lock of its own: a second call for the same file, in this process too, has to wait for the first one to end. A
    thread that would wait without limit for itself gets a RuntimeError.

    Args:
        path: The lock file, which need not exist.
        wait: Seconds to wait for whoever holds the lock; None waits without limit.
        announce: Logged once, as a warning, if the lock is held by another and will be waited for.

    Raises:
        BlockingIOError: The lock was still held by another after ``wait`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # thread_local: whoever leaves the block releases, also from another thread. fallback_to_soft: on a file system
    # without flock(2) filelock would use a lock that outlives a killed process.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        _acquire(lock, wait, announce)
    except Timeout:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process or thread", str(path)) from None
    try:
        yield
    finally:
        lock.release()


def project_root(folder: Path | None = None) -> Path:
    """Return the project's folder: the given or else the current one, or the original if that is a temporary copy.

    ``dvc exp run --temp`` and DVC's queue run stages in a copy below .dvc/tmp/exps, which they then delete.
    """
    here = folder or Path.cwd()
    markers = (".dvc", "tmp", "exps")
    found = [i for i in range(len(here.parts)) if here.parts[i : i + 3] == markers]
    return Path(*here.parts[: found[0]]) if found else here


def private_folder() -> Path:
    """Make a folder for what lives no longer than a process, which this user alone can read.

    Returns:
        The folder; its path is short enough for a socket's.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    # On macOS a user's own temporary folder has too long a path for the sockets of Ray.
    folder = Path("/tmp" if sys.platform == "darwin" else tempfile.gettempdir(), f"genloom-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise OSError(f"{folder}: not a folder of this user alone. Remove it.")
    return folder


def borrow(path: Path, root: Path) -> None:
    """Make a relative path that git does not hold appear in a temporary copy of the project, as links.

    A file or folder that the copy lacks becomes a link to the project's. In a folder that both have, each file that
    the copy lacks does; a link to a folder within it would not do, because DVC does not look into those.

    Args:
        path: relative to the current folder; an absolute one is left alone.
        root: the project's folder; nothing happens if that is the current one.
    """
    source, target = root / path, Path.cwd() / path
    if path.is_absolute() or source == target or not source.exists():
        return
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    elif source.is_dir() and not target.is_symlink():
        for place, _, files in os.walk(source, followlinks=True):
            inside = target / Path(place).relative_to(source)
            inside.mkdir(exist_ok=True)
            for name in files:
                if not (inside / name).exists():
                    (inside / name).symlink_to(Path(place, name))


def _acquire(lock: FileLock, wait: float | None, announce: str | None) -> None:
    if announce is not None:
        with suppress(Timeout):
            lock.acquire(blocking=False)
            return
        _logger.warning(announce)
    lock.acquire(timeout=-1 if wait is None else wait)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
