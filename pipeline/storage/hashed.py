"""Writing a large file and its hash in one pass."""

import errno
import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any

PIECE_BYTES = 2**22  # what is written at a time: a multiple of any disk's blocks, in memory that begins with a page
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux


class HashedFile:
    """A new file that takes bytes in order, to be given to ``torch.save``; its bytes are on the disk when it is closed.

    Whole pieces go to the disk directly where the file system lets them: a copy of them in its cache would take twice
    the processor's time and the memory of programs that run. They go as they come, since what is left for the end
    would hold up every other program's fsync. Hashing and writing let go of the GIL.

    An error of the disk is kept until the file is closed: torch would turn it into another one.

    Args:
        path: of the file, which must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._piece = mmap.mmap(-1, PIECE_BYTES)
        self._filled = 0
        self._hash = hashlib.sha256()
        self._direct = bool(_DIRECT)
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        """Append bytes, from any object that has a buffer; return how many."""
        whole, place = memoryview(content).cast("B"), 0
        if self._error is None:
            self._hash.update(whole)
        while place < len(whole) and self._error is None:
            part = whole[place : place + PIECE_BYTES - self._filled]
            self._piece[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            place += len(part)
            if self._filled == PIECE_BYTES:
                self._write_piece()
        return len(whole)

    def flush(self) -> None:
        """Do nothing: closing flushes."""

    def hexdigest(self) -> str:
        """Return the hexadecimal SHA-256 of what was written."""
        return self._hash.hexdigest()

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; raise the OSError that was kept, if there is one, in the place of what torch made of it."""
        try:
            if self._error is None and error is None:
                self._write_piece()
            if self._error is None and error is None:
                os.fsync(self._file)
        finally:
            os.close(self._file)
        if self._error is not None:
            raise self._error

    def _write_piece(self) -> None:
        """Write what the piece holds, and keep the error if that fails."""
        self._set_direct(self._direct and self._filled == PIECE_BYTES)
        written = 0
        piece = memoryview(self._piece)
        while written < self._filled:
            try:
                written += os.write(self._file, piece[written : self._filled])
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    self._error = error
                    return
                self._direct = False  # this file system wants other blocks
            if written % mmap.PAGESIZE or not self._direct:  # a part was written: the disk is nearly full
                self._set_direct(False)
        self._filled = 0

    def _set_direct(self, direct: bool) -> None:
        if not _DIRECT:
            return
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
        except OSError:  # this file system cannot
            self._direct = False
