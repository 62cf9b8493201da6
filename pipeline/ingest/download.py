"""One published file to this machine, whole and checked: from a mirror's folder, or over HTTP with resumption.

The standard library's client is enough here and keeps the data's part free of further packages.
"""

import hashlib
import http
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import naming, write_json
from pipeline.ingest.source import Origin, Report

TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second try, doubled before each further one
_BLOCK = 2**18
_MOST_BYTES = 2**31  # a server that never ends a file must not fill the disk

Check = Callable[[Path, str], None]
"""Takes a file and the name under which it is published; raises DamagedError if the content is not that file's."""


class DamagedError(Exception):
    """A file that is not what its publisher made; says in what."""


class _UnavailableError(Exception):
    """The server does not have or give the file: trying again is of no use."""


class _InterruptedError(Exception):
    """The connection failed: another try may go further."""


def obtain(name: str, urls: Sequence[str], origin: Origin, check: Check) -> Path:
    """A path to the file: in the mirror's folder, or in ``origin.partial``, where it was downloaded to.

    urls: prefixes, tried in turn. A file that fails the check is discarded.
    Raises UserError with what was tried and why it failed.
    """
    folder = _folder_of(origin.mirror)
    if folder is not None:
        return _in_folder(folder / name, check)
    failures = []
    for prefix in urls if origin.mirror is None else [origin.mirror]:
        url = f"{prefix.rstrip('/')}/{name}"
        try:
            return _checked_download(url, name, origin, check)
        except (DamagedError, _UnavailableError, _InterruptedError) as error:
            failures.append(f"{url}: {error}")
    key = "data.source" if origin.mirror is None else "data.mirror"
    raise UserError(
        f"params.yaml: {key}: '{name}' could not be downloaded: {'; '.join(failures)}. Run the command again to go on "
        "from what has arrived, or set data.mirror to a directory or URL prefix that has the file."
    )


def _folder_of(mirror: str | None) -> Path | None:
    """The directory that a mirror names, as a path or a file:// URL; none if it is on the network."""
    if mirror is None or mirror.startswith(("http://", "https://")):
        return None
    if mirror.startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path))
    if "://" in mirror:
        raise UserError(f"params.yaml: data.mirror: '{mirror}' is neither a directory nor an http, https or file URL.")
    return Path(mirror)


def _in_folder(path: Path, check: Check) -> Path:
    if not path.parent.is_dir():
        raise UserError(f"params.yaml: data.mirror: there is no directory '{path.parent}' to take '{path.name}' from.")
    if not path.is_file():
        raise UserError(f"params.yaml: data.mirror: '{path.parent}' has no file '{path.name}'. Put it there.")
    try:
        check(path, path.name)
    except DamagedError as error:
        raise UserError(f"{path}: damaged: {error}. Replace it, or change data.mirror in params.yaml.") from error
    return path


def _checked_download(url: str, name: str, origin: Origin, check: Check) -> Path:
    # The URL is in the name, so that what one mirror began is never continued with another's bytes.
    target = origin.partial / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if not target.exists():
        download(url, target, origin.report)
    try:
        check(target, name)
    except DamagedError:
        target.unlink()
        raise
    return target


def download(url: str, target: Path, report: Report) -> None:
    """Brings the URL's bytes to ``target``, which appears only when their number is right.

    Until then they are in ``<target>.part``, and a later call goes on from there if the server says
    that the file is still the same one (RFC 9110, If-Range); otherwise it starts again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    most, fruitless = _size(part), 0
    while True:
        try:
            _receive(url, part, lambda done, total: report(target.name.partition("-")[2], done, total))
            break
        except _InterruptedError:
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless == TRIES:
                raise
            time.sleep(PAUSE * 2 ** (fruitless - 1) if fruitless else 0)
    part.replace(target)
    _note_of(part).unlink(missing_ok=True)


def _receive(url: str, part: Path, report: Callable[[int, int | None], None]) -> None:
    """One connection: appends to what is there if the server agrees, else starts the file again."""
    with _request(url, part) as response:
        done = _start(response, part)
        if done == 0:
            part.unlink(missing_ok=True)
            write_json(_note_of(part), {"validator": _validator(response)})
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with naming(part), part.open("ab") as file:
            while block := _read(response):
                file.write(block)
                done += len(block)
                report(done, total)
                if done > _MOST_BYTES:
                    raise _UnavailableError(f"more than {_MOST_BYTES} bytes")
    if total is not None and done != total:
        raise _InterruptedError(f"the connection ended after {done} of {total} bytes")


def _request(url: str, part: Path) -> Any:
    # 'identity': a server that packs or unpacks on the way would make lengths and ranges meaningless.
    headers = {"User-Agent": "genloom", "Accept-Encoding": "identity", **_resumption(part)}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # it has all of the file, or more: start again
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _InterruptedError(f"the server answers {error.code} {error.reason}") from error
        raise _UnavailableError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_BLOCK))
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error


def _start(response: Any, part: Path) -> int:
    """Where the answer's first byte belongs: after what is there, or at 0."""
    if response.status != 206:
        return 0
    if not str(response.headers.get("Content-Range", "")).startswith(f"bytes {_size(part)}-"):
        part.unlink(missing_ok=True)
        raise _InterruptedError("the server sent another range than was asked for")
    return _size(part)


def _resumption(part: Path) -> dict[str, str]:
    """Headers that ask for the rest of what ``part`` began; none where that cannot be asked for safely."""
    note = _note_of(part)
    validator = json.loads(note.read_text())["validator"] if note.exists() else None
    return {"Range": f"bytes={_size(part)}-", "If-Range": validator} if validator and _size(part) else {}


def _validator(response: Any) -> str | None:
    """What tells one version of the file from another: a strong ETag, else the date."""
    etag: str | None = response.headers.get("ETag")
    date: str | None = response.headers.get("Last-Modified")
    return etag if etag and not etag.startswith("W/") else date


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
