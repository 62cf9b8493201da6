"""Downloads that are complete or absent, resume, and come from any mirror that fsspec can open."""

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from filelock import FileLock
from toy_data import origin

from pipeline.errors import UserError
from pipeline.ingest import download

RNG = np.random.default_rng
SIZE, CUT = 5_000_000, 3_500_000


@dataclass
class Site:
    """A server of one file that can cut connections, know ranges or not, and change the file.

    cut: bytes after which each connection ends, None to let it end by itself. statuses: of the next GETs, before
    ``status`` is that of all. stall: seconds before a connection ends. asked: the Range header of each GET.
    """

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    lengths: bool = True
    cut: int | None = None
    packed: bool = False
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""
    stall: float = 0.0
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"] if self.ranges else None
        if handler.command == "GET":
            self.asked.append(handler.headers["Range"])
        status = self.statuses.pop(0) if self.statuses and handler.command == "GET" else self.status
        if status != 200:
            handler.send_response(status)
            if self.retry_after:
                handler.send_header("Retry-After", self.retry_after)
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        first, last = map(int, wanted.removeprefix("bytes=").split("-")) if wanted else (0, len(self.content) - 1)
        if first >= len(self.content):
            return handler.send_error(416)
        handler.send_response(206 if wanted else 200)
        body = self.content[first : last + 1]
        headers = {"Content-Range": f"bytes {first}-{last}/{len(self.content)}"} if wanted else {}
        headers |= {"ETag": self.etag} if self.etag else {}
        headers |= {"Content-Length": str(len(body))} if self.lengths else {}
        headers |= {"Content-Encoding": "gzip"} if self.packed else {}
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[: self.cut])
            if self.stall:
                handler.wfile.flush()
                time.sleep(self.stall)
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    served = Site(content=RNG(0).bytes(SIZE))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # a client that asks for the size of a file alone hangs up

    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()


def fetch(site: Site, tmp_path: Path, expected: bytes | None = None) -> bytes:
    """The file through ``obtain``, whose check wants the expected content (what the site has, if none is given)."""

    def check(path: Path) -> None:
        if path.read_bytes() != (expected or site.content):
            raise download.DamagedError("wrong content")

    return download.obtain("a.bin", [site.url], origin(tmp_path), check).read_bytes()


def interrupted(site: Site, tmp_path: Path) -> Path:
    """The part of a download that a server without ranges, which cuts connections, left for the next process."""
    site.cut, site.ranges = CUT, False
    with pytest.raises(UserError, match=rf"\d of {SIZE} bytes.*Run the command again"):
        fetch(site, tmp_path)
    site.cut, site.ranges, site.asked = None, True, []
    return next((tmp_path / "downloads").glob("*.part"))


def test_a_download_arrives_whole_in_one_request_and_is_kept(tmp_path: Path, site: Site) -> None:
    for _ in range(2):
        assert fetch(site, tmp_path) == site.content
        assert site.asked == [None]
    assert {path.name[-6:] for path in (tmp_path / "downloads").iterdir()} - {"n.lock"} == {"-a.bin"}


def test_a_cut_connection_resumes(tmp_path: Path, site: Site) -> None:
    """The rest comes in ranges, of which the first begins where the cut connection ended, but for what was buffered."""
    site.cut = CUT
    assert fetch(site, tmp_path) == site.content
    start = int(str(site.asked[1]).removeprefix("bytes=").partition("-")[0])
    assert CUT - 2**20 <= start <= CUT
    starts = range(start, SIZE, download._BLOCK)
    assert site.asked == [None, *(f"bytes={first}-{min(first + download._BLOCK, SIZE) - 1}" for first in starts)]


def test_progress_counts_all_bytes(tmp_path: Path, site: Site) -> None:
    told: list[tuple[str, int, int | None]] = []
    site.cut = CUT
    download.download(f"{site.url}/a.bin", tmp_path / "b", report=lambda *values: told.append(values))
    assert told[-1] == ("a.bin", SIZE, SIZE)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_another_process_goes_on_from_what_has_arrived(tmp_path: Path, site: Site) -> None:
    arrived = interrupted(site, tmp_path).stat().st_size
    assert arrived > CUT - 2**20
    assert fetch(site, tmp_path) == site.content
    assert str(site.asked[0]).startswith(f"bytes={arrived}-") and None not in site.asked


def test_a_server_without_ranges_starts_again(tmp_path: Path, site: Site) -> None:
    interrupted(site, tmp_path)
    site.ranges = False
    assert fetch(site, tmp_path) == site.content
    assert site.asked[-1] is None and len(site.asked) == 2


@pytest.mark.parametrize("change", [{"etag": '"2"'}, {"etag": '"2"', "content": RNG(1).bytes(SIZE - 9)}])
def test_a_file_that_changed_meanwhile_starts_again(tmp_path: Path, site: Site, change: dict[str, Any]) -> None:
    interrupted(site, tmp_path)
    for key, value in change.items():
        setattr(site, key, value)
    assert fetch(site, tmp_path) == site.content
    assert site.asked == [None]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_etag_it_never_resumes(tmp_path: Path, site: Site, etag: str | None) -> None:
    site.etag = etag
    interrupted(site, tmp_path)
    assert fetch(site, tmp_path) == site.content
    assert site.asked == [None]


def test_a_part_that_is_longer_than_the_file_starts_again(tmp_path: Path, site: Site) -> None:
    interrupted(site, tmp_path).write_bytes(site.content + b"more")
    assert fetch(site, tmp_path) == site.content
    assert site.asked == [None]


def test_a_part_that_has_all_bytes_is_not_fetched_again(tmp_path: Path, site: Site) -> None:
    interrupted(site, tmp_path).write_bytes(site.content)
    assert fetch(site, tmp_path) == site.content
    assert site.asked == []


@pytest.mark.parametrize("lengths", [True, False])
def test_a_short_file_never_passes(tmp_path: Path, site: Site, lengths: bool) -> None:
    """Without a length the client cannot tell; the check of the content can."""
    site.cut, site.ranges, site.lengths = CUT, False, lengths
    for _ in range(2):
        with pytest.raises(UserError, match="wrong content" if not lengths else rf"\d of {SIZE} bytes"):
            fetch(site, tmp_path)
    assert not list((tmp_path / "downloads").glob("*-a.bin"))


def test_a_body_that_a_server_calls_packed_arrives_as_it_is(tmp_path: Path, site: Site) -> None:
    """As some servers say of any .gz file; unpacked it would be another file than the published one."""
    site.packed = True
    assert fetch(site, tmp_path) == site.content


def test_damaged_content_is_discarded_and_fetched_anew(tmp_path: Path, site: Site) -> None:
    good, site.content = site.content, bytes([site.content[0] ^ 1]) + site.content[1:]
    with pytest.raises(UserError, match="wrong content"):
        fetch(site, tmp_path, expected=good)
    site.content = good
    assert fetch(site, tmp_path) == good


def test_an_expected_hash_is_checked_before_the_file_appears(tmp_path: Path, site: Site) -> None:
    target, url = tmp_path / "new" / "a.bin", f"{site.url}/a.bin"
    with pytest.raises(download.DamagedError, match="expected sha256 0000"):
        download.download(url, target, sha256="0" * 64)
    assert not target.exists() and not list(target.parent.glob("*.part"))
    download.download(url, target, sha256=hashlib.sha256(site.content).hexdigest())
    assert target.read_bytes() == site.content


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited for, in the place of waiting."""
    slept: list[float] = []
    monkeypatch.setattr(download, "PAUSE", 1.0)
    monkeypatch.setattr(download.time, "sleep", slept.append)
    return slept


def test_a_server_that_never_ends_a_file_is_left(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(download, "_MOST_BYTES", 2**20)
    site.lengths = False
    with pytest.raises(UserError, match=f"more than {2**20} bytes"):
        fetch(site, tmp_path)
    assert pauses == []


def test_a_disk_without_room_is_said_before_the_download(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=SIZE - 1))
    with pytest.raises(UserError, match=f"{SIZE} bytes more are needed in .*downloads, where {SIZE - 1} are free"):
        fetch(site, tmp_path)
    assert site.asked == []


def test_the_next_mirror_is_tried(tmp_path: Path, site: Site) -> None:
    def check(path: Path) -> None:
        assert path.read_bytes() == site.content

    gone = "http://127.0.0.1:9/gone/"
    found = download.obtain("a.bin", [gone, site.url], origin(tmp_path), check)
    assert found.read_bytes() == site.content
    site.status = 404
    with pytest.raises(UserError, match=r"data\.source: 'a\.bin' .*gone/a\.bin.*answers 404.*data\.mirror"):
        download.obtain("a.bin", [gone, f"{site.url}/x"], origin(tmp_path), check)
    with pytest.raises(UserError, match=r"data\.mirror: 'a\.bin' .*answers 404"):
        download.obtain("a.bin", [gone], origin(tmp_path / "other", site.url), check)


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_asked_again_and_again(
    tmp_path: Path, site: Site, pauses: list[float], status: int
) -> None:
    site.status = status
    with pytest.raises(UserError, match=f"answers {status} "):
        fetch(site, tmp_path)
    assert len(site.asked) == download.BUSY_TRIES and pauses == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_recovers_gives_the_file(tmp_path: Path, site: Site, pauses: list[float], status: int) -> None:
    site.statuses = [status, status]
    assert fetch(site, tmp_path) == site.content
    assert site.statuses == [] and pauses == [1, 2]


def later(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), (40, 30, 40), (-9, 1, 1), ("soon", 1, 1)])
def test_a_server_says_when_to_come_back(
    tmp_path: Path, site: Site, pauses: list[float], header: str | int, least: float, most: float
) -> None:
    site.statuses, site.retry_after = [429], later(header) if isinstance(header, int) else header
    assert fetch(site, tmp_path) == site.content
    assert len(pauses) == 1 and least <= pauses[0] <= most


def test_a_server_that_asks_for_an_hour_is_left(tmp_path: Path, site: Site, pauses: list[float]) -> None:
    site.status, site.retry_after = 429, "3600"
    with pytest.raises(UserError, match=r"answers 429 .* asks to come back in 3600 seconds"):
        fetch(site, tmp_path)
    assert len(site.asked) == 1 and pauses == []


@pytest.mark.parametrize(("status", "said"), [(404, ""), (410, ""), (401, "wants a login"), (403, "wants a login")])
def test_a_refusal_is_final(tmp_path: Path, site: Site, pauses: list[float], status: int, said: str) -> None:
    site.status = status
    with pytest.raises(UserError, match=f"answers {status} .*{said}"):
        fetch(site, tmp_path)
    assert len(site.asked) == 1 and pauses == []


def test_a_server_that_stalls_is_left_and_resumed(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    fsspec.filesystem("http").clear_instance_cache()
    site.cut, site.stall = CUT, 2.0
    started = time.monotonic()
    assert fetch(site, tmp_path) == site.content
    assert len(site.asked) > 1 and time.monotonic() - started < 2.0


def test_a_server_that_serves_a_page_in_the_place_of_the_file(tmp_path: Path, site: Site) -> None:
    """As portals of hotels and expired links do, with 200 OK."""
    good, site.content = site.content, b"<html>Please accept our cookies</html>"
    with pytest.raises(UserError, match="wrong content"):
        fetch(site, tmp_path, expected=good)
    assert not [path for path in (tmp_path / "downloads").iterdir() if path.suffix != ".lock"]


def test_several_files_come_at_once_and_in_order(tmp_path: Path, site: Site) -> None:
    """Each waits until the others are on their way, but for those beyond the bound."""
    at_once = threading.Barrier(download._AT_ONCE)

    def one(name: str) -> bytes:
        at_once.wait(10)
        return download.obtain(name, [site.url], origin(tmp_path), lambda path: None).read_bytes() + name.encode()

    names = [f"{number}.bin" for number in range(2 * download._AT_ONCE)]
    assert download.obtain_all(one, names) == [site.content + name.encode() for name in names]
    assert len(site.asked) == len(names)


def test_the_first_file_that_fails_ends_it(tmp_path: Path) -> None:
    begun: list[int] = []

    def one(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)
        raise UserError(f"file {number}")

    with pytest.raises(UserError, match="file 0"):
        download.obtain_all(one, range(100))
    assert len(begun) < 100


def test_two_runs_at_once_download_once(tmp_path: Path, site: Site) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: fetch(site, tmp_path), range(2)))
    assert found == [site.content, site.content] and site.asked == [None]


def test_a_mirror_may_be_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's file system in memory stands for those of the clouds, whose objects have an ETag or generation too."""
    monkeypatch.setattr(download, "PAUSE", 0.0)
    bucket, content = fsspec.filesystem("memory"), RNG(0).bytes(3_000_000)
    bucket.pipe_file("/bucket/mnist/a.bin", content)
    there = origin(tmp_path, "memory://bucket/mnist")
    assert download.obtain("a.bin", [], there, lambda path: None).read_bytes() == content
    with pytest.raises(UserError, match=r"memory://bucket/mnist/b\.bin: .*FileNotFoundError"):
        download.obtain("b.bin", [], there, lambda path: None)
    with pytest.raises(UserError, match=r"data\.mirror: .*Protocol not known: nonsense"):
        download.obtain("a.bin", [], origin(tmp_path, "nonsense://x"), lambda path: None)


def test_a_second_process_waits_says_so_once_and_takes_what_the_first_has_brought(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "a.bin"
    with caplog.at_level(logging.INFO), FileLock(f"{target}.lock"):
        waiting = threading.Thread(target=download.download, args=(f"{site.url}/a.bin", target))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive() and site.asked == []
        target.write_bytes(b"by the other process")
    waiting.join(10)
    assert not waiting.is_alive() and target.read_bytes() == b"by the other process" and site.asked == []
    assert [record.message for record in caplog.records if "another process" in record.message] == [
        f"waiting for another process that downloads {target}"
    ]
