"""A user's own files where they lie: local ones in their place, those of URLs in the folder for downloads.

Nothing is copied. ``keep_listing`` is the whole download of a source of local files; ``originals`` opens them later and
says so if they are not what was listed.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.ingest.download import DownloadError, download, file_system, obtain_all, version_of
from pipeline.ingest.listing import (
    FILES,
    Listed,
    files_at,
    is_url,
    list_local,
    local,
    pattern_of,
    read_listing,
    regular_problem,
    write_listing,
)
from pipeline.ingest.patterns import expand_braces, matcher, refuse_missing, split_pattern
from pipeline.ingest.source import Origin, Report, UnreadableError, silent

_BARS = 8  # of progress; more files have one together


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A file of the user's own.

    Attributes:
        path: number of the path in ``data.path`` that it was found at.
        name: relative path with slashes.
        file: where it is; does not exist if there is a problem.
        bytes: its size.
        sha256: hex hash of its content.
        problem: why it can't be opened; empty if it can.
    """

    path: int
    name: str
    file: Path
    bytes: int
    sha256: str
    problem: str = ""


def list_files(paths: Iterable[str], folder: Path, hashes: Path, report: Report = silent) -> list[Listed]:
    """List what lies at the paths of ``data.path``.

    Args:
        paths: local paths and URLs of files and folders.
        folder: the project's, from which relative paths count.
        hashes: see ``listing.list_local``.
        report: called with the progress.

    Returns:
        The files.

    Raises:
        UserError: a path does not exist or a server does not answer.
    """
    found: list[Listed] = []
    for number, path in enumerate(paths):
        if is_url(path):
            found += _list_remote(number, path)
        elif pattern := pattern_of(path, folder):
            inside = list_local(number, local(path, folder), hashes, report, wanted=matcher(pattern))
            refuse_missing(path, pattern, (one.name for one in inside))
            found += inside
        elif local(path, folder).exists():
            found += list_local(number, local(path, folder), hashes, report)
        else:
            raise UserError(f"params.yaml: data.path: there is no '{path}'. Name a folder or an archive of images.")
    return found


def keep_listing(origin: Origin, raw: Path, wanted: Callable[[str], bool] = bool) -> None:
    """Write the listing to ``raw``; download first what lies at URLs, several at a time, and state its hashes.

    Args:
        origin: its listing was made by ``list_files``.
        raw: the folder of the stage download.
        wanted: tells by name the files to keep; by default all.

    Raises:
        UserError: a file can't be downloaded.
    """
    assert origin.listing is not None, "a source of the user's own files"
    kept = [one for one in read_listing(origin.listing) if wanted(one.name)]
    remote = {one for one in kept if is_url(origin.paths[one.path]) and not one.problem}
    each = origin if len(remote) <= _BARS else replace(origin, report=silent)
    done: list[str] = []

    def at_hand(one: Listed) -> Listed:
        here = _downloaded(one, each)
        done.append(one.name)
        if each is not origin:
            origin.report("downloading files", len(done), len(remote))
        return here

    here = iter(obtain_all(at_hand, [one for one in kept if one in remote]))
    write_listing(raw / FILES, (next(here) if one in remote else one for one in kept))


def originals(raw: Path, origin: Origin) -> list[Original]:
    """Return the files that ``keep_listing`` wrote down, in order; missing downloads are fetched anew."""
    place_of = cache(lambda path: _place(origin.paths[path], origin))
    return [_original(one, origin, place_of(one.path)) for one in read_listing(raw / FILES)]


def unlisted(origin: Origin) -> list[Original]:
    """Return the files at the local paths of ``data.path`` as they are found, without their sizes and hashes."""
    found: list[Original] = []
    for number, path in enumerate(origin.paths):
        pattern = pattern_of(path, origin.folder)
        inside = files_at(local(path, origin.folder), matcher(pattern) if pattern else None)
        found += [Original(path=number, name=name, file=Path(place), bytes=0, sha256="") for name, place in inside]
    return found


def read_unlisted(original: Original) -> bytes:
    """Read a whole file whose hash is not known; UnreadableError if it is no regular file."""
    if problem := regular_problem(original.file):
        raise UnreadableError(problem)
    return original.file.read_bytes()


def read(original: Original) -> bytes:
    """Read a whole file; UserError if it is not the one that was listed."""
    try:
        content = original.file.read_bytes()
    except OSError as error:
        raise UserError(f"{original.file}: {error.strerror}. Run `dvc repro` to list the images anew.") from error
    if hashlib.sha256(content).hexdigest() != original.sha256:
        raise _changed(original)
    return content


def check(original: Original) -> Path:
    """Return where a large file is; UserError if its size is not the one that was listed."""
    if not original.file.is_file() or original.file.stat().st_size != original.bytes:
        raise _changed(original)
    return original.file


def _changed(original: Original) -> UserError:
    return UserError(f"{original.file}: has changed since it was listed. Run `dvc repro` to list the images anew.")


def _place(path: str, origin: Origin) -> tuple[Path, bool] | None:
    """Return where a local path is and whether that is a folder; None for a URL."""
    if is_url(path):
        return None
    place = local(path, origin.folder)
    return place, place.is_dir()


def _original(one: Listed, origin: Origin, place: tuple[Path, bool] | None) -> Original:
    if place is None:
        file = _target(one, origin)
        if not one.problem and not file.exists():
            _downloaded(one, origin)
    else:
        file = place[0] / one.name if place[1] else place[0]
    return Original(path=one.path, name=one.name, file=file, bytes=one.bytes, sha256=one.sha256, problem=one.problem)


def _list_remote(number: int, url: str) -> list[Listed]:
    """List a file or a folder of any file system that fsspec knows."""
    base_url, pattern = split_pattern(url)
    try:
        files, path = file_system(base_url)
        if pattern and not set(pattern) & set("*[?"):  # a server of files alone lists no folders
            found = {
                f"{path.rstrip('/')}/{one}": files.info(f"{path.rstrip('/')}/{one}") for one in expand_braces(pattern)
            }
            about = {"type": "directory"}
        else:
            about = files.info(path)
            found = {path: about} if about["type"] == "file" else files.find(path, detail=True)
    except Exception as error:  # each file system has exceptions of its own
        raise UserError(
            f"params.yaml: data.path: '{url}' can't be listed ({error or type(error).__name__})."
        ) from error
    if not found:
        raise UserError(f"params.yaml: data.path: there is no file at '{url}'.")
    base = path.rstrip("/") if about["type"] != "file" else path.rpartition("/")[0]
    named = {name.removeprefix(base).lstrip("/"): entry for name, entry in found.items()}
    if pattern:
        named = {name: entry for name, entry in named.items() if matcher(pattern)(name)}
        refuse_missing(url, pattern, named)
    return [
        Listed(number, name, int(entry["size"] or 0), _stated_hash(entry), _version(entry))
        for name, entry in sorted(named.items())
    ]


def _stated_hash(entry: dict[str, Any]) -> str:
    """Return the SHA-256 of a file's content where a hub states it, as Hugging Face's does for large files."""
    stated = entry.get("lfs") or {}
    return str(stated.get("sha256", "")) if isinstance(stated, dict) else ""


def _version(entry: dict[str, Any]) -> str:
    """Return what a server says of a file's version."""
    return ";".join(f"{key}={value}" for key, value in version_of(entry).items()) or f"size={entry['size']}"


def _downloaded(one: Listed, origin: Origin) -> Listed:
    """Download a listed file, unless it is there, and return it with its hash and size."""
    target = _target(one, origin)
    base, _ = split_pattern(origin.paths[one.path])
    url = base if base.rstrip("/").rpartition("/")[2] == one.name else f"{base.rstrip('/')}/{one.name}"
    try:
        download(url, target, sha256=one.sha256 or None, report=origin.report)
    except DownloadError as error:
        raise UserError(
            f"params.yaml: data.path: '{url}' could not be downloaded: {error}. Run the command again to resume it."
        ) from error
    digest = sha256_of(target)
    if one.sha256 and one.sha256 != digest:
        target.unlink()
        raise UserError(f"{url}: is no longer the file that was listed. Run `dvc repro` to list the images anew.")
    return replace(one, bytes=target.stat().st_size, sha256=digest)


def _target(one: Listed, origin: Origin) -> Path:
    """Return where a download is kept: a folder for each URL and version, so that two never mix."""
    key = hashlib.sha256(f"{origin.paths[one.path]} {one.name} {one.version}".encode()).hexdigest()[:12]
    return origin.downloads / key / one.name
