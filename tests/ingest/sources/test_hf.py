"""Datasets of the Hugging Face hub: from a file system that states what the hub's does, and through huggingface_hub."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from published import FILES, named, opened_own, own_origin

from pipeline.config import Data, read_params
from pipeline.errors import UserError
from pipeline.ingest import download, sources
from pipeline.ingest.listing import read_listing
from pipeline.ingest.originals import list_files
from pipeline.stages.origin import origin_of

ROOT = Path(__file__).parents[3]
TABLE = (FILES / "hf-train-00000-of-00001.parquet").read_bytes()
NAME = "data/train-00000-of-00001.parquet"


class Hub(MemoryFileSystem):
    """The hub's files in memory, with the entries that HfFileSystem has of a large file."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hf://").strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._with_hash(super().info(path, **options))

    def find(self, path: str, **options: Any) -> Any:
        return {name: self._with_hash(entry) for name, entry in super().find(path, **options).items()}

    def _with_hash(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["type"] == "file":
            sha256 = hashlib.sha256(self.cat_file(entry["name"])).hexdigest()
            entry = entry | {"blob_id": sha256[:8], "lfs": {"sha256": sha256, "size": entry["size"], "pointer_size": 9}}
        return entry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setitem(_registry, "hf", Hub)
    files = Hub()
    files.pipe_file(f"/datasets/user/name/{NAME}", TABLE)
    files.pipe_file("/datasets/user/name/README.md", b"# A dataset")
    files.pipe_file("/datasets/user/folders/cats/1.png", b"")
    yield files
    Hub.store.clear()


@pytest.mark.parametrize("path", ["user/name", "hf://datasets/user/name", "user/name/data"])
def test_a_dataset_by_its_name(tmp_path: Path, hub: Hub, path: str) -> None:
    with opened_own("hf", tmp_path, path) as dataset:
        assert dataset.classes == ("cat", "dog", "eel")
        assert list(named(dataset.splits["train"]).values()) == [2, 0, 1]
    assert not list((tmp_path / "downloads").rglob("README.md"))


def test_a_listing_has_the_hashes_that_the_hub_states(tmp_path: Path, hub: Hub) -> None:
    source = sources.find("hf")
    given = own_origin(source, tmp_path, "user/name")
    listed = {one.name: one.sha256 for one in read_listing(tmp_path / "listing.csv")}
    assert listed[NAME] == hashlib.sha256(TABLE).hexdigest()
    hub.pipe_file(f"/datasets/user/name/{NAME}", TABLE[:-1] + b"x")
    with pytest.raises(UserError, match=rf"{NAME}' could not be downloaded: not the published file"):
        source.download(given, tmp_path)


def test_a_dataset_without_parquet_files_is_told_of_the_copy(tmp_path: Path, hub: Hub) -> None:
    with (
        pytest.raises(UserError, match=r"has no Parquet files\. .*try user/folders@refs%2Fconvert%2Fparquet"),
        opened_own("hf", tmp_path, "user/folders"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"'hf://datasets/user/gone' can't be listed"),
        opened_own("hf", tmp_path, "user/gone"),
    ):
        pass


def test_what_is_no_name_is_a_local_path() -> None:
    address = sources.find("hf").address
    assert address("user/name@v1.0/config") == "hf://datasets/user/name@v1.0/config"
    assert address("/data/name") == "/data/name" and address("name") == "name" and address("s3://a/b") == "s3://a/b"


@pytest.fixture
def server() -> Iterator[str]:
    """The part of the hub's HTTP interface that HfFileSystem uses, with one dataset."""
    entry = {"type": "file", "path": NAME, "size": len(TABLE), "oid": "1" * 40}
    entry["lfs"] = {"oid": hashlib.sha256(TABLE).hexdigest(), "size": len(TABLE), "pointerSize": 134}
    tree = json.dumps([entry, {"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]).encode()
    about = json.dumps({"id": "user/name", "sha": "a" * 40, "siblings": [], "private": False, "tags": []}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, content = self.path.partition("?")[0], None
            if path.startswith("/api/datasets/user/name/tree/"):
                content = tree
            elif re.fullmatch(r"/api/datasets/user/name(/revision/.*)?", path):
                content = about
            elif path == f"/datasets/user/name/resolve/main/{NAME}":
                content = TABLE
            self.send_response(404 if content is None else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_through_the_hubs_own_package(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hugging = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(_registry, "hf", hugging.HfFileSystem)
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server, "token": False})
    (one,) = list_files(["hf://datasets/user/name"], tmp_path, tmp_path / "hashes.sqlite")
    assert (one.name, one.sha256) == (NAME, hashlib.sha256(TABLE).hexdigest())
    with opened_own("hf", tmp_path, "user/name") as dataset:
        assert list(named(dataset.splits["train"]).values()) == [2, 0, 1]


def test_the_stages_take_a_name_for_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = replace(read_params(), data=Data(source="hf", path=["user/name", "/data/x.parquet"]))
    assert origin_of(params).paths == ("hf://datasets/user/name", "/data/x.parquet")
