"""Download of published files, resumed after an interruption and checked before use.

fsspec opens the URL, so a mirror may be http(s), a bucket (s3://, gs://), a hub (hf://) or anything else for which
fsspec's package is installed. Its own ``get_file`` neither resumes nor notices a short body of unknown length, so bytes
are appended here: a new file is one streamed request, the rest of an interrupted one is read in ranges.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec

from pipeline.errors import UserError
from pipeline.files import locked, naming, sha256_of, write_json
from pipeline.ingest.source import Origin, Report, silent

if TYPE_CHECKING:
    import aiohttp

TRIES = 3  # attempts in a row that add nothing to what has arrived
BUSY_TRIES = 6  # of them where the server says that it is overloaded, or is asked too often
PAUSE = 1.0  # seconds before the second of them, doubled before each further one
_LONGEST_PAUSE = 300.0  # seconds that a server may ask for; one that asks for more is given up
_BUSY = (429, 503)
_PASSING = (408, 425, 500, 502, 504, *_BUSY)  # answers that another attempt may change
_AT_ONCE = 4  # files
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 2**20  # bytes of one range
_CHUNK = 2**18  # bytes to read at a time from a stream: aiohttp buffers twice as many or more, and a cut loses them
_MOST_BYTES = 2**33  # where no length is stated: a server that never ends a file must not fill the disk
_VERSION = ("etag", "last-modified", "lastmodified", "content-md5", "generation", "blob_id", "mtime")  # of fs.info
_T = TypeVar("_T")
_S = TypeVar("_S")

Check = Callable[[Path], None]
"""Takes a downloaded file; raises DamagedError if it isn't the published one."""


class DownloadError(Exception):
    """A file that could not be downloaded."""


class DamagedError(DownloadError):
    """A file whose content is not what was published; the message says how it differs."""


class _InterruptedError(DownloadError):
    """An attempt that failed on the network: another one may get further."""

    def __init__(self, message: str, *, busy: bool = False, pause: float = 0.0) -> None:
        """Say what happened.

        Args:
            message: for people.
            busy: the server is overloaded, or is asked too often.
            pause: seconds after which it wants to be asked again.
        """
        super().__init__(message)
        self.busy, self.pause = busy, pause


def obtain_all(obtain_one: Callable[[_S], _T], files: Sequence[_S]) -> list[_T]:
    """Call ``obtain_one`` with several files at a time and return what it returns, in order.

    The first error ends it: files that have not begun are left out, and those on their way are kept for the next call.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(obtain_one, file) for file in files]
        try:
            return [one.result() for one in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def obtain(name: str, urls: Sequence[str], origin: Origin, check: Check) -> Path:
    """Return a checked copy of a published file, downloading it if needed.

    A downloaded file stays in ``origin.downloads`` and is used again; one that fails the check is deleted.

    Args:
        name: the file's name under each of the URLs.
        urls: URL prefixes, tried in turn unless ``origin.mirror`` takes their place.
        origin: the mirror, the folder for downloads and where to report progress.
        check: called with the file; raises DamagedError.

    Returns:
        The path of the file, in the mirror's directory or in ``origin.downloads``.

    Raises:
        UserError: no URL has the file; says what was tried and why each failed.
    """
    folder = _directory_of(origin.mirror)
    if folder is not None:
        return _from_directory(folder / name, check)
    failures = []
    for prefix in urls if origin.mirror is None else [origin.mirror]:
        url = f"{prefix.rstrip('/')}/{name}"
        try:
            return _checked_download(url, name, origin, check)
        except DownloadError as error:
            failures.append(f"{url}: {error}")
    key = "data.source" if origin.mirror is None else "data.mirror"
    raise UserError(
        f"params.yaml: {key}: '{name}' could not be downloaded: {'; '.join(failures)}. Run the command again to resume "
        "the download, or set data.mirror to a directory or URL prefix that has the file."
    )


def download(url: str, target: Path, *, sha256: str | None = None, report: Report = silent) -> None:
    """Download a URL to a file that appears only when it is complete.

    Bytes are collected in ``<target>.part``, from which a later call resumes if the file at the URL is still the same
    version. Waits while another process downloads to the same target, and does nothing if the target exists then.
    Raises DownloadError once ``TRIES`` attempts in a row have brought no more of the file.

    Args:
        url: anything that fsspec can open.
        target: the file to write; its folder is created if it does not exist.
        sha256: hex digest of the content, if it is known.
        report: called with the file's name, the bytes that have arrived and their total.

    Raises:
        DamagedError: all bytes have arrived, but ``sha256`` differs; the part is deleted.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = f"waiting for another process that downloads {target}"
    with locked(Path(f"{target}.lock"), wait=None, announce=waiting):
        if target.exists():
            return
        _complete(url, part, report)
        if sha256 and sha256_of(part) != sha256:
            part.unlink()
            _note_of(part).unlink(missing_ok=True)
            raise DamagedError(f"not the published file (expected sha256 {sha256})")
        part.replace(target)
        _note_of(part).unlink(missing_ok=True)


def _directory_of(mirror: str | None) -> Path | None:
    """Return the directory that a mirror names as a path or file:// URL; None for any other URL."""
    if mirror is None or ("://" in mirror and not mirror.startswith("file://")):
        return None
    return Path(url2pathname(urlsplit(mirror).path) if "://" in mirror else mirror)


def _from_directory(path: Path, check: Check) -> Path:
    if not path.parent.is_dir():
        raise UserError(f"params.yaml: data.mirror: there is no directory '{path.parent}' to take '{path.name}' from.")
    if not path.is_file():
        raise UserError(f"params.yaml: data.mirror: '{path.parent}' has no file '{path.name}'. Put it there.")
    try:
        check(path)
    except DamagedError as error:
        raise UserError(f"{path}: damaged: {error}. Replace it, or change data.mirror in params.yaml.") from error
    return path


def _checked_download(url: str, name: str, origin: Origin, check: Check) -> Path:
    # The URL is in the name, so that what one mirror began is never continued with another's bytes.
    target = origin.downloads / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    download(url, target, report=origin.report)
    try:
        check(target)
    except DamagedError:
        target.unlink()
        raise
    return target


def _complete(url: str, part: Path, report: Report) -> None:
    """Append to the part until it is the whole file; give up after TRIES attempts in a row that add nothing."""
    most, fruitless = _size_of(part), 0
    while True:
        try:
            return _receive(url, part, report)
        except _InterruptedError as error:
            if isinstance(error.__cause__, ValueError) and _size_of(part):
                part.unlink()  # fsspec's word for a server that sends no ranges: start from the beginning
                continue
            fruitless = 0 if _size_of(part) > most else fruitless + 1
            most = max(most, _size_of(part))
            if fruitless >= (BUSY_TRIES if error.busy else TRIES) or error.pause > _LONGEST_PAUSE:
                raise
            time.sleep(max(error.pause, PAUSE * 2 ** (fruitless - 1) if fruitless else 0))


def _receive(url: str, part: Path, report: Report) -> None:
    """Make one attempt: append to the part if it began the same version of the file, else start it again."""
    files, path = file_system(url)
    info = _network("no answer", files.info, path)
    done, size = _prepare(part, info), info["size"]
    _check_room(part, done, size)
    blocks = _blocks(files, path, done)
    with naming(part), part.open("ab") as file:
        while block := _network(f"interrupted after {done} of {size} bytes", next, blocks, b""):
            file.write(block)
            done += len(block)
            report(url.rpartition("/")[2], done, size)
            if done > (_MOST_BYTES if size is None else size):
                raise DownloadError(f"more than {_MOST_BYTES if size is None else size} bytes")
    if size is not None and done != size:
        raise _InterruptedError(f"{done} of {size} bytes arrived")


def _check_room(part: Path, done: int, size: int | None) -> None:
    """Raise DownloadError if the disk has no room for the rest of a file."""
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - done > free:
        raise DownloadError(f"{size - done} bytes more are needed in {part.parent}, where {free} are free")


def _blocks(files: Any, path: str, start: int) -> Iterator[bytes]:
    """Yield the file from ``start``: over HTTP in one streamed request from the beginning, else in ranges."""
    from fsspec.implementations.http import HTTPStreamFile

    with files.open(path, "rb", block_size=_BLOCK if start else 0, cache_type="none") as remote:
        if start:
            remote.seek(start)
        while block := remote.read(_CHUNK if isinstance(remote, HTTPStreamFile) else _BLOCK):
            yield block


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and the path in it; DownloadError if there is none for it."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp  # here: stages that download nothing, which read this module, need not wait for it

        # Without these aiohttp ignores proxies, ends any request after five minutes and unpacks a body that a server
        # declares as gzip, so that sizes and ranges would be those of other bytes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_TIMEOUT)
        options["client_kwargs"] = {"trust_env": True, "auto_decompress": False, "timeout": timeout}
        options["headers"] = {"Accept-Encoding": "identity", "User-Agent": "genloom"}
    try:
        files, path = fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise DownloadError(str(error)) from error
    return files, path


def version_of(info: dict[str, Any]) -> dict[str, str]:
    """Return what a file system says of a file's version, such as its ETag."""
    return {key: str(value) for key, value in sorted(info.items()) if key.lower() in _VERSION and value}


def _network(failure: str, call: Callable[..., _T], *args: Any) -> _T:
    """Call a file system, each of which has exceptions of its own; all become _InterruptedError."""
    try:
        return call(*args)
    except Exception as error:
        import aiohttp

        # Over HTTP info raises FileNotFoundError whatever has happened; its cause says what.
        cause = (error.__cause__ if isinstance(error, FileNotFoundError) else None) or error
        if isinstance(cause, aiohttp.ClientResponseError):
            raise _refusal(cause) from error
        raise _InterruptedError(f"{failure} ({type(cause).__name__}: {cause})") from error


def _refusal(answer: "aiohttp.ClientResponseError") -> DownloadError:
    """Return the error for an answer that is no file: one for which another attempt is made, or is not."""
    said = f"the server answers {answer.status} {answer.message}"
    if answer.status not in _PASSING:
        login = " (it wants a login or an accepted licence)" if answer.status in (401, 403) else ""
        return DownloadError(f"{said}{login}")
    pause = _retry_after(answer.headers.get("Retry-After", "") if answer.headers else "")
    if pause > _LONGEST_PAUSE:
        said += f" and asks to come back in {pause:.0f} seconds"
    return _InterruptedError(said, busy=answer.status in _BUSY, pause=pause)


def _retry_after(header: str) -> float:
    """Return the seconds that a Retry-After header asks for, which may be a number or a date; 0 if it says neither."""
    with suppress(ValueError):
        return max(float(header), 0.0)
    with suppress(ValueError, TypeError):
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 0.0)
    return 0.0


def _prepare(part: Path, info: dict[str, Any]) -> int:
    """Return how many bytes of this version of the file the part has; empties a part of any other version."""
    version = {key: value for key, value in version_of(info).items() if not value.startswith("W/")}  # equal in meaning
    state, note = {"size": info["size"], "version": version}, _note_of(part)
    if version and note.exists() and json.loads(note.read_text()) == state and _size_of(part) <= (info["size"] or 0):
        return _size_of(part)
    part.unlink(missing_ok=True)
    write_json(note, state)
    return 0


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
