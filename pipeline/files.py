"""Writing so that a file or folder is complete or absent, and hashing what was written."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; it takes that name only if the block ends well."""
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
    """Yields an empty temporary folder beside ``path``; it replaces that folder only if the block ends well."""
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


def write_json(path: Path, value: Any) -> None:
    """Atomically, indented, with sorted keys and a last newline."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets a full or failing disk's error name what was being written: the system names no file when a
    write fails, only when an open does."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock on the file, made if absent; BlockingIOError after ``wait`` seconds.

    The system drops the lock when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _flock(handle, time.monotonic() + wait)
        yield
    finally:
        os.close(handle)


def project_root() -> Path:
    """The project's folder: the current one, or, in a workspace that ``dvc exp run --temp`` or its queue
    made and will delete, the project that it was copied from."""
    here = Path.cwd()
    markers = (".dvc", "tmp", "exps")
    found = [i for i in range(len(here.parts)) if here.parts[i : i + 3] == markers]
    return Path(*here.parts[: found[0]]) if found else here


def _flock(handle: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
