"""What lies at ``data.path``: each file with its size and the hash of its content.

DVC is not asked to look at a user's own images: it ends with an error, or not at all, at what is no regular file (dvc
3.67). The listing is made by the stage own (data/dvc.yaml), at every ``dvc repro``; what has not changed since is not
read again. Only regular files are opened. URLs are listed by the version that their server states, and downloaded by
the stage download.

    listing.csv, files.csv    path (its number in data.path), name, bytes, sha256, version, problem
"""

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from threading import Lock

from pipeline.errors import UserError
from pipeline.files import rows_of, sha256_of, write_csv, write_json
from pipeline.ingest.parallel import in_threads
from pipeline.ingest.patterns import split_pattern
from pipeline.ingest.source import Report, silent

LISTING = Path("out/listing")  # a file for each source
FILES, LISTED, PATHS = "files.csv", "listed.csv", "paths.json"  # in out/raw
_THREADS = min(8, os.cpu_count() or 1)  # hashing leaves Python's lock, but for small files more threads fight for it
_MANY = 256  # files between two reports of progress


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that was found.

    Attributes:
        path: number of the path in ``data.path`` that it was found at.
        name: relative path with slashes; the file's own name if the path is that of a file.
        bytes: its size.
        sha256: hex hash of its content; empty if it is not known yet, as that of a URL's file.
        version: of a URL's file, what its server says of it, such as an ETag.
        problem: why it can't be opened; empty if it can.
    """

    path: int
    name: str
    bytes: int = 0
    sha256: str = ""
    version: str = ""
    problem: str = ""


_COLUMNS = [column.name for column in fields(Listed)]


def is_url(path: str) -> bool:
    """Tell a URL from a local path."""
    return "://" in path


def local(path: str, folder: Path) -> Path:
    """Return a local path of ``data.path``, of a pattern its folder; relative ones count from the project's folder."""
    whole = folder / Path(path).expanduser()
    return whole if whole.exists() else Path(split_pattern(str(whole))[0])


def pattern_of(path: str, folder: Path) -> str:
    """Return the pattern of a path in the folder that ``local`` returns; empty if it is none."""
    whole = folder / Path(path).expanduser()
    return "" if whole.exists() else split_pattern(str(whole))[1]


def note_listing(raw: Path, listing: Path, paths: Iterable[str]) -> None:
    """Keep a listing in out/raw, with the paths that it is of, for a clone that has none of the files."""
    shutil.copyfile(listing, raw / LISTED)
    write_json(raw / PATHS, list(paths))


def listed_before(raw: Path, paths: Iterable[str]) -> Path | None:
    """Return the listing that out/raw has of these very paths, as after `dvc pull`; None if it has none."""
    try:
        same = json.loads((raw / PATHS).read_text()) == list(paths)
    except (OSError, ValueError):
        return None
    return raw / LISTED if same and (raw / LISTED).exists() else None


def list_local(
    number: int, place: Path, hashes: Path, report: Report = silent, *, wanted: Callable[[str], bool] | None = None
) -> list[Listed]:
    """List a file, or all files in a directory and below.

    Links are followed, each real directory is visited once, and hidden files and folders are passed over.

    Args:
        number: of the path in ``data.path``.
        place: the file or directory.
        hashes: a database of the hashes of files seen before, by place, size and time of the last change.
        report: called with the progress.
        wanted: of the files in a directory, tells by name those to list; None: all.

    Returns:
        The files by name; those that are no regular files have a problem in the place of a version.
    """
    found = files_at(place, wanted)
    hashes.parent.mkdir(parents=True, exist_ok=True)
    with closing(_Hashes(hashes)) as known:
        listed = []
        for one in in_threads(partial(_list_one, number, known), found, _THREADS):
            listed.append(one[0])
            known.keep(one[1])
            if len(listed) % _MANY == 0 or len(listed) == len(found):
                report("looking at files", len(listed), len(found))
    return listed


def files_at(place: Path, wanted: Callable[[str], bool] | None = None) -> list[tuple[str, str]]:
    """Return name and real place of a file, or of all files in a directory and below, by name; none is opened."""
    found = sorted(_walk(place)) if place.is_dir() else [(place.name, os.path.realpath(place))]
    return found if wanted is None else [one for one in found if wanted(one[0])]


def regular_problem(path: Path) -> str:
    """Say why a path is no file that can be opened without waiting; empty if it is a regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "link to nothing" if path.is_symlink() else "not there"
    except OSError as error:  # a circle of links, a folder that may not be entered
        return _reason(error)
    kinds = {stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device"}
    kinds |= {stat.S_ISBLK: "device", stat.S_ISDIR: "folder"}
    return next((kind for test, kind in kinds.items() if test(mode)), "")


def write_listing(path: Path, files: Iterable[Listed]) -> None:
    """Write files in the order of their paths and names, atomically; equal files make equal bytes."""
    write_csv(path, _COLUMNS, map(attrgetter(*_COLUMNS), sorted(files, key=attrgetter("path", "name"))))


def read_listing(path: Path) -> list[Listed]:
    """Read what ``write_listing`` wrote; UserError where there is none."""
    try:
        return [
            Listed(int(row["path"]), row["name"], int(row["bytes"]), row["sha256"], row["version"], row["problem"])
            for row in rows_of(path)
        ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no readable listing of files ({error!r}). Run `dvc repro` to make it.") from error


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's relative path with slashes, and its place in a real directory."""
    seen: set[str] = set()
    for place, directories, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            directories.clear()
            continue
        seen.add(real)
        directories[:] = sorted(name for name in directories if not _is_hidden(name))
        inside = Path(place).relative_to(folder).as_posix()
        for name in files:
            if not _is_hidden(name):
                yield name if inside == "." else f"{inside}/{name}", f"{real}/{name}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _list_one(number: int, known: "_Hashes", found: tuple[str, str]) -> "tuple[Listed, _Entry | None]":
    name, path = found[0], Path(found[1])
    if problem := regular_problem(path):
        return Listed(number, name, problem=problem), None
    try:
        seen = path.stat()
        real = os.path.realpath(path) if path.is_symlink() else found[1]  # of its directory it is known
        key = _Entry(os.fsencode(real), seen.st_size, seen.st_mtime_ns, seen.st_ino)
        digest = known.find(key) or sha256_of(path)
    except OSError as error:
        return Listed(number, name, problem=_reason(error)), None
    return Listed(number, name, seen.st_size, digest), key.having(digest)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


@dataclass(frozen=True, slots=True)
class _Entry:
    place: bytes  # a name on the disk need not be UTF-8
    size: int
    changed: int
    inode: int
    sha256: str = ""

    def having(self, sha256: str) -> "_Entry":
        return _Entry(self.place, self.size, self.changed, self.inode, sha256)


_STORED = attrgetter(*(column.name for column in fields(_Entry)))


class _Hashes:
    """Remembers hashes of files in a SQLite database, which several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS hashes (place BLOB PRIMARY KEY, size INTEGER, changed INTEGER, inode INTEGER, "
            "sha256 TEXT) WITHOUT ROWID"
        )
        self.lock = Lock()

    def find(self, key: _Entry) -> str:
        """Return the hash of a file that is as it was; empty if it is not known."""
        with self.lock:
            row = self.database.execute("SELECT * FROM hashes WHERE place = ?", [key.place]).fetchone()
        entry = row and _Entry(*row)
        return entry.sha256 if entry and entry == key.having(entry.sha256) else ""

    def keep(self, entry: _Entry | None) -> None:
        """Remember a file's hash once ``close`` is called."""
        if entry and not self.find(entry):
            with self.lock:
                self.database.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", _STORED(entry))

    def close(self) -> None:
        """Write what was kept."""
        self.database.commit()
        self.database.close()
