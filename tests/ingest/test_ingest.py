"""Downloads that are whole or absent, images that come out as they went in, shards that hold what was decoded."""

import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, origin
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.data import dataset as shards
from pipeline.data.dataset import ArrayStore, NewSplit, open_dataset, write_dataset
from pipeline.errors import UserError
from pipeline.files import atomic_folder
from pipeline.ingest import download, sources
from pipeline.ingest.idx import Idx
from pipeline.ingest.normalize import hold_out, normalize, to_square
from pipeline.ingest.source import Origin, RawDataset, RawSplit
from pipeline.ingest.sources import cifar10, image_folder

RNG = np.random.default_rng


def split_images(folder: Path, name: str) -> NDArray[np.uint8]:
    """(n, h, w, c)"""
    split = open_dataset(folder).splits[name]
    return split.images(range(len(split))).permute(0, 2, 3, 1).numpy()


# Shards


def write(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], **changes: Any) -> dict[str, Any]:
    """A dataset of one split, in blocks that do not meet the shards' ends."""
    spec = ImageSpec(channels=images.shape[-1], size=images.shape[1], classes=3)
    splits = {"train": NewSplit(labels=labels, blocks=(images[start : start + 7] for start in range(0, 50, 7)))}
    return write_dataset(folder, source="toy", spec=spec, classes="abc", splits=splits, **changes)


@pytest.fixture
def toy() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return RNG(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8), RNG(1).integers(0, 3, 50)


def test_shards_give_back_what_was_written(tmp_path: Path, toy: Any) -> None:
    images, labels = toy
    info = write(tmp_path / "data", images, labels, shard_bytes=10 * 8 * 8 * 3)
    dataset = open_dataset(tmp_path / "data")
    assert len(info["splits"]["train"]["shards"]) == 5
    source = dataset.splits["train"].store
    assert isinstance(source, ArrayStore) and all(isinstance(array, np.memmap) for array in source.arrays)
    np.testing.assert_array_equal(split_images(tmp_path / "data", "train"), images)
    np.testing.assert_array_equal(dataset.splits["train"].labels, labels)
    assert dataset.spec == ImageSpec(channels=3, size=8, classes=3)
    assert info["splits"]["train"]["class_counts"] == [int((labels == label).sum()) for label in range(3)]
    np.testing.assert_allclose(info["mean"], (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(info["std"], (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_the_digest_is_of_the_content_however_it_is_cut(tmp_path: Path, toy: Any) -> None:
    images, labels = toy
    one = write(tmp_path / "one", images, labels)
    many = write(tmp_path / "many", images, labels, shard_bytes=3 * 8 * 8 * 3 + 5)
    assert len(many["splits"]["train"]["shards"]) == 17
    assert one["digest"] == many["digest"]
    pixel, label = images.copy(), labels.copy()
    pixel[31, 2, 3, 1] ^= 1
    label[31] = (label[31] + 1) % 3
    digests = {
        one["digest"],
        write(tmp_path / "p", pixel, labels)["digest"],
        write(tmp_path / "l", images, label)["digest"],
    }
    assert len(digests) == 3


def test_a_full_disk_leaves_the_old_dataset_and_names_the_folder(
    tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(tmp_path / "data", *toy)

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "_new_array", lambda path, *_: Full(path, "w"))
    with pytest.raises(OSError) as caught:
        write(tmp_path / "data", 255 - toy[0], toy[1])
    assert caught.value.filename == str(tmp_path / "data")
    assert open_dataset(tmp_path / "data").digest == old["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# One image


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_keeps_its_pixels(channels: int) -> None:
    pixels = RNG(0).integers(0, 256, (16, 16, channels), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    np.testing.assert_array_equal(to_square(image, channels, 16), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("size", [8, 33])
def test_white_stays_white_in_every_mode_and_size(mode: str, size: int) -> None:
    image = Image.new("RGB", (40, 20), "white").convert(mode)
    for channels in (1, 3):
        square = to_square(image, channels, size)
        assert square.shape == (size, size, channels)
        assert square.min() == 255


def test_gray_is_the_luma_of_bt_601() -> None:
    for colour, weight in {"red": 0.299, "lime": 0.587, "blue": 0.114}.items():
        assert abs(int(to_square(Image.new("RGB", (9, 9), colour), 1, 9).max()) - 255 * weight) <= 1


def test_the_middle_square_is_kept() -> None:
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    for image in (Image.fromarray(wide), Image.fromarray(wide.T)):
        np.testing.assert_array_equal(to_square(image, 1, 8), np.full((8, 8, 1), 200))


def test_reduction_does_not_alias() -> None:
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(to_square(Image.fromarray(checkers), 1, 16).astype(int) - 127.5).max() <= 1


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 51))
    assert np.abs(to_square(half, 3, 4).astype(int) - 204).max() <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert to_square(palette, 1, 4).min() == 255


# Hold-out


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_the_hold_out_is_a_stratified_partition(fraction: float) -> None:
    labels = RNG(0).permutation(np.repeat([0, 1, 2, 3], [200, 50, 2, 1]))
    train, test = hold_out(labels, fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    for label, count in enumerate([200, 50, 2]):
        held = (labels[test] == label).sum()
        assert abs(held - fraction * count) <= 1 and 0 < held < count
    assert (labels[test] == 3).sum() == 0
    np.testing.assert_array_equal(test, hold_out(labels, fraction)[1])


def test_normalize_holds_out_and_reports_all(tmp_path: Path) -> None:
    images = RNG(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    raw = RawDataset(("even", "odd"), {"train": RawSplit(labels, lambda number: Image.fromarray(images[number]))})
    told: dict[str, tuple[int, int | None]] = {}
    info = normalize(
        raw, tmp_path / "d", source="toy", channels=1, size=8, test_fraction=0.25,
        report=lambda name, done, total: told.update({name: (done, total)}),
    )  # fmt: skip
    train, test = hold_out(labels, 0.25)
    np.testing.assert_array_equal(split_images(tmp_path / "d", "train")[..., 0], images[train])
    np.testing.assert_array_equal(split_images(tmp_path / "d", "test")[..., 0], images[test])
    assert {name: entry["count"] for name, entry in info["splits"].items()} == {"train": 30, "test": 10}
    assert told == {"normalizing train": (30, 30), "normalizing test": (10, 10)}


# IDX


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 | array.ndim, *array.shape) + array.tobytes()


@dataclass
class Published:
    """A small dataset in MNIST's format: the source that expects it, and its files in a folder."""

    folder: Path
    source: Idx
    content: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, content: bytes, level: int = 9) -> None:
        (self.folder / name).write_bytes(gzip.compress(content, level, mtime=0))


@pytest.fixture
def published(tmp_path: Path) -> Published:
    counts, content = {"train": 30, "t10k": 10}, {}
    for number, (part, count) in enumerate(counts.items()):
        content[f"{part}-images-idx3-ubyte.gz"] = idx_bytes(
            RNG(number).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        )
        content[f"{part}-labels-idx1-ubyte.gz"] = idx_bytes(RNG(9).integers(0, 10, count, dtype=np.uint8))
    source = Idx(
        urls=("http://127.0.0.1:9/gone",),
        classes=tuple("0123456789"),
        compressed=dict.fromkeys(content, "md5:unknown"),
        decoded={name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in content.items()},
        counts=counts,
    )
    (tmp_path / "mirror").mkdir()
    made = Published(tmp_path / "mirror", source, content)
    for name, data in content.items():
        made.put(name, data)
    return made


def test_idx_files_are_read_as_published(tmp_path: Path, published: Published) -> None:
    with atomic_folder(tmp_path / "raw") as raw:
        published.source.download(origin(tmp_path, published.folder), raw)
    with published.source.open(tmp_path / "raw") as dataset:
        split = dataset.splits["test"]
        expected = np.frombuffer(published.content["t10k-images-idx3-ubyte.gz"][16:], np.uint8).reshape(-1, 28, 28)
        np.testing.assert_array_equal(np.stack([np.asarray(split.decode(i)) for i in range(10)]), expected)
        np.testing.assert_array_equal(split.labels, list(published.content["t10k-labels-idx1-ubyte.gz"][8:]))


@pytest.mark.parametrize("as_url", [False, True])
def test_a_mirror_may_compress_anew(tmp_path: Path, published: Published, as_url: bool) -> None:
    name = "train-images-idx3-ubyte.gz"
    published.put(name, published.content[name], level=1)
    (tmp_path / "raw").mkdir()
    mirror = published.folder.as_uri() if as_url else str(published.folder)
    published.source.download(origin(tmp_path, mirror), tmp_path / "raw")
    assert gzip.decompress((tmp_path / "raw" / name).read_bytes()) == published.content[name]


def test_the_published_hash_of_the_gz_file_will_do_too(tmp_path: Path, published: Published) -> None:
    name = "t10k-labels-idx1-ubyte.gz"
    md5 = hashlib.md5((published.folder / name).read_bytes()).hexdigest()
    decoded = published.source.decoded | {name: "md5:unknown"}
    (tmp_path / "raw").mkdir()
    source = replace(published.source, decoded=decoded, compressed={**published.source.compressed, name: f"md5:{md5}"})
    source.download(origin(tmp_path, published.folder), tmp_path / "raw")
    with pytest.raises(UserError, match="not the published file"):
        replace(published.source, decoded=decoded).download(origin(tmp_path, published.folder), tmp_path / "raw")


def _flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit in the archive": lambda data: _flip(gzip.compress(data, mtime=0)),
    "a truncated archive": lambda data: gzip.compress(data, mtime=0)[:-20],
    "another image": lambda data: gzip.compress(_flip(data)),
    "an image too few": lambda data: gzip.compress(data[:-784]),
    "a longer file": lambda data: gzip.compress(data + bytes(2**26)),
    "another shape": lambda data: gzip.compress(data[:8] + struct.pack(">2I", 14, 56) + data[16:]),
    "no gzip": lambda data: b"<html>Not found</html>",
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_leaves_nothing(tmp_path: Path, published: Published, damage: str) -> None:
    name = "train-images-idx3-ubyte.gz"
    (published.folder / name).write_bytes(DAMAGES[damage](published.content[name]))
    with pytest.raises(UserError, match=f"{name}: damaged: .*Replace it"), atomic_folder(tmp_path / "raw") as raw:
        published.source.download(origin(tmp_path, published.folder), raw)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirror"]


def test_a_label_out_of_range_is_damage(tmp_path: Path, published: Published) -> None:
    name = "t10k-labels-idx1-ubyte.gz"
    published.put(name, idx_bytes(np.full(10, 10, np.uint8)))
    with pytest.raises(UserError, match="a label of 10"):
        published.source.download(origin(tmp_path, published.folder), tmp_path)


def test_what_a_mirror_lacks_is_said(tmp_path: Path, published: Published) -> None:
    (published.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"data\.mirror: .* has no file 't10k-labels-idx1-ubyte\.gz'"):
        published.source.download(origin(tmp_path, published.folder), tmp_path)
    with pytest.raises(UserError, match=r"data\.mirror: there is no directory '.*gone'"):
        published.source.download(origin(tmp_path, tmp_path / "gone"), tmp_path)
    with pytest.raises(UserError, match=r"data\.mirror: 's3://x' is neither"):
        published.source.download(origin(tmp_path, "s3://x"), tmp_path)


def test_another_sources_files_are_refused(tmp_path: Path, published: Published) -> None:
    for name in ("mnist", "cifar10", "digits", "image_folder"):
        with pytest.raises(UserError, match="not this source's files"), sources.find(name).open(published.folder):
            pass


# HTTP


@dataclass
class Site:
    """A server of one file that can cut connections, know ranges or not, and change the file.

    cut: bytes after which each connection ends, None to let it end by itself.
    """

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    lengths: bool = True
    cut: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"]
        self.asked.append(wanted)
        if self.status != 200:
            return handler.send_error(self.status)
        same = self.ranges and wanted is not None and handler.headers["If-Range"] == self.etag
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if same else 0
        if same and start >= len(self.content):
            return handler.send_error(416)
        handler.send_response(206 if same else 200)
        body = self.content[start:]
        headers = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"} if same else {}
        headers |= {"ETag": self.etag} if self.etag else {}
        headers |= {"Content-Length": str(len(body))} if self.lengths else {}
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(body[: self.cut])
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    served = Site(content=RNG(0).bytes(100_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()


def fetch(site: Site, tmp_path: Path, expected: bytes | None = None) -> bytes:
    """The file through ``obtain``, whose check wants the expected content (what the site has, if none is given)."""

    def check(path: Path, name: str) -> None:
        if path.read_bytes() != (expected or site.content):
            raise download.DamagedError("wrong content")

    return download.obtain("a.bin", [site.url], origin(tmp_path), check).read_bytes()


def test_a_download_arrives_whole_in_one_request(tmp_path: Path, site: Site) -> None:
    assert fetch(site, tmp_path) == site.content
    assert site.asked == [None]
    assert [path.name[-6:] for path in (tmp_path / "partial").iterdir()] == ["-a.bin"]


def test_a_cut_connection_resumes(tmp_path: Path, site: Site) -> None:
    site.cut = 30_000
    assert fetch(site, tmp_path) == site.content
    assert site.asked == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_another_process_goes_on_from_what_has_arrived(tmp_path: Path, site: Site) -> None:
    site.cut, site.ranges = 70_000, False
    with pytest.raises(UserError, match=r"70000 of 100000 bytes.*Run the command again"):
        fetch(site, tmp_path)
    site.cut, site.ranges, site.asked = None, True, []
    assert fetch(site, tmp_path) == site.content
    assert site.asked == ["bytes=70000-"]


def test_a_file_that_changed_meanwhile_starts_again(tmp_path: Path, site: Site) -> None:
    site.cut, site.ranges = 70_000, False
    with pytest.raises(UserError):
        fetch(site, tmp_path)
    site.cut, site.ranges, site.etag, site.content = None, True, '"2"', RNG(1).bytes(90_000)
    assert fetch(site, tmp_path) == site.content


def test_without_an_etag_it_never_resumes(tmp_path: Path, site: Site) -> None:
    site.cut, site.etag = 70_000, None
    with pytest.raises(UserError):
        fetch(site, tmp_path)
    site.cut = None
    assert fetch(site, tmp_path) == site.content
    assert set(site.asked) == {None}


def test_a_part_that_is_already_whole_starts_again(tmp_path: Path, site: Site) -> None:
    site.cut, site.ranges = 70_000, False
    with pytest.raises(UserError):
        fetch(site, tmp_path)
    part = next((tmp_path / "partial").glob("*.part"))
    part.write_bytes(site.content + b"more")
    site.cut, site.ranges, site.asked = None, True, []
    assert fetch(site, tmp_path) == site.content
    assert site.asked == ["bytes=100004-", None]


@pytest.mark.parametrize("lengths", [True, False])
def test_a_short_file_never_passes(tmp_path: Path, site: Site, lengths: bool) -> None:
    """Without a length the client cannot tell; the check of the content can."""
    site.cut, site.ranges, site.lengths = 50_000, False, lengths
    for _ in range(2):
        with pytest.raises(UserError, match="wrong content" if not lengths else "50000 of 100000"):
            fetch(site, tmp_path)
    assert not list((tmp_path / "partial").glob("*-a.bin"))


def test_damaged_content_is_discarded_and_fetched_anew(tmp_path: Path, site: Site) -> None:
    good, site.content = site.content, _flip(site.content)
    with pytest.raises(UserError, match="wrong content"):
        fetch(site, tmp_path, expected=good)
    site.content = good
    assert fetch(site, tmp_path) == good


def test_the_next_mirror_is_tried(tmp_path: Path, site: Site) -> None:
    def check(path: Path, name: str) -> None:
        assert path.read_bytes() == site.content

    gone = "http://127.0.0.1:9/gone/"
    found = download.obtain("a.bin", [gone, site.url], origin(tmp_path), check)
    assert found.read_bytes() == site.content
    site.status = 404
    with pytest.raises(UserError, match=r"data\.source: 'a\.bin' .*gone/a\.bin.*answers 404.*data\.mirror"):
        download.obtain("a.bin", [gone, f"{site.url}/x"], origin(tmp_path), check)
    with pytest.raises(UserError, match=r"data\.mirror: 'a\.bin' .*answers 404"):
        download.obtain("a.bin", [gone], origin(tmp_path / "other", site.url), check)


# CIFAR-10


def py2_pickle(data: NDArray[np.uint8], labels: list[int]) -> bytes:
    """{'data': array, 'labels': list} as Python 2 and numpy 1 pickled it: protocol 2, bytes for strings."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    shape = b"".join(b"J" + struct.pack("<i", size) for size in data.shape)
    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    raw = data.tobytes()
    array += b"(K\x01" + shape + b"\x86" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    items = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + items + b"u."


@dataclass
class Archive:
    """A small CIFAR-10: the source that expects it, the members, and the images as (n, h, w, c)."""

    source: cifar10.Cifar
    members: dict[str, bytes]
    images: NDArray[np.uint8]
    labels: list[int]

    def put(self, folder: Path, **changes: bytes) -> Path:
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / "c.tar.gz", "w:gz") as tar:
            for name, content in (self.members | changes).items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return folder


@pytest.fixture
def archive() -> Archive:
    images, labels = RNG(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), [3, 1, 4, 1, 5, 9]
    rows = images.transpose(0, 3, 1, 2).reshape(6, -1)
    members = {
        "data_batch_1": py2_pickle(rows[:2], labels[:2]),
        "data_batch_2": py2_pickle(rows[2:4], labels[2:4]),
        "test_batch": py2_pickle(rows[4:], labels[4:]),
        "batches.meta": pickle.dumps({"label_names": list("abcdefghij")}, protocol=2),
        "readme.html": b"<html>",
    }
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items() if name != "readme.html"}
    train = {name: md5[name] for name in ("data_batch_1", "data_batch_2")}
    meta = {"batches.meta": md5["batches.meta"]}
    source = cifar10.Cifar(
        url="http://127.0.0.1:9/c.tar.gz", train=train, test={"test_batch": md5["test_batch"]}, meta=meta
    )
    return Archive(source, members, images, labels)


def test_cifar_is_read_as_python_2_wrote_it(tmp_path: Path, archive: Archive) -> None:
    (tmp_path / "raw").mkdir()
    archive.source.download(origin(tmp_path, archive.put(tmp_path / "mirror")), tmp_path / "raw")
    with archive.source.open(tmp_path / "raw") as dataset:
        train, test = dataset.splits["train"], dataset.splits["test"]
        decoded = [np.asarray(split.decode(i)) for split in (train, test) for i in range(len(split.labels))]
        np.testing.assert_array_equal(np.stack(decoded), archive.images)
        assert [*train.labels, *test.labels] == archive.labels
        assert dataset.classes == tuple("abcdefghij")


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_cifar_runs_no_code_of_the_archive(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(_Evil(), protocol=2)
    mirror = archive.put(tmp_path / "mirror", test_batch=evil)
    with pytest.raises(UserError, match="test_batch is not the published one"):
        archive.source.download(origin(tmp_path, mirror), tmp_path)
    # Not even where the hash is right.
    trusting = replace(archive.source, test={"test_batch": hashlib.md5(evil).hexdigest()})
    with pytest.raises(UserError, match=r"pickle asks for posix\.mkdir"), trusting.open(mirror):
        pass
    assert not (tmp_path / "evil").exists()


def test_a_damaged_cifar_archive_is_named(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = archive.put(tmp_path / "mirror")
    packed = (mirror / "c.tar.gz").read_bytes()
    for damaged in (packed[:-4000], _flip(packed), b"", b"not an archive"):
        (mirror / "c.tar.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"c\.tar\.gz: damaged"):
            archive.source.download(origin(tmp_path, mirror), tmp_path)
    archive.members.pop("test_batch")
    with pytest.raises(UserError, match="has no member test_batch"):
        archive.source.download(origin(tmp_path, archive.put(mirror)), tmp_path)
    monkeypatch.setattr(cifar10, "_MOST_BYTES", 10**6)
    with pytest.raises(UserError, match="unpacks to more than 1000000 bytes"):
        archive.source.download(origin(tmp_path, archive.put(mirror, **{"a.html": bytes(10**7)})), tmp_path)


# Image folders


def paint(path: Path, value: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 12), value).save(path, **options)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Class folders: images 0..9 are cats, 10..19 dogs, each image of one value."""
    for value in range(20):
        paint(tmp_path / "pets" / ("cats" if value < 10 else "dogs") / f"{value:02}.png", value)
    (tmp_path / "pets" / "README.md").write_text("not an image")
    (tmp_path / "pets" / ".cache").mkdir()
    paint(tmp_path / "pets" / ".cache" / "x.png", 99)
    return tmp_path / "pets"


def read_folder(path: Path, raw: Path) -> dict[str, dict[int, int]]:
    """The value and label of each image of each split."""
    with atomic_folder(raw) as temporary:
        image_folder.SOURCE.download(Origin(path=path, mirror=None, partial=raw / "partial"), temporary)
    with image_folder.SOURCE.open(raw) as dataset:
        assert dataset.classes == ("cats", "dogs")
        return {
            name: {int(np.asarray(split.decode(i)).max()): int(split.labels[i]) for i in range(len(split.labels))}
            for name, split in dataset.splits.items()
        }


EXPECTED = {value: int(value >= 10) for value in range(20)}


def test_a_directory_of_class_folders(tmp_path: Path, pets: Path) -> None:
    assert read_folder(pets, tmp_path / "raw") == {"train": EXPECTED}
    first = (tmp_path / "raw" / "images.zip").read_bytes()
    os.utime(pets / "cats" / "00.png", (0, 0))
    read_folder(pets, tmp_path / "raw")
    assert (tmp_path / "raw" / "images.zip").read_bytes() == first


def test_a_zip_of_class_folders_with_folders_around_them(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    pets.rename(tmp_path / "outer" / "inner" / "pets")
    archive = zipped(tmp_path / "outer", tmp_path / "pets.zip")
    assert read_folder(archive, tmp_path / "raw") == {"train": EXPECTED}
    assert (tmp_path / "raw" / "images.zip").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "Validation"])
def test_given_splits(tmp_path: Path, pets: Path, held_out: str) -> None:
    (pets / "train").mkdir()
    for name in ("cats", "dogs"):
        (pets / name).rename(pets / "train" / name)
        paint(pets / held_out / name / "sub" / "x.JPG", 100 if name == "cats" else 200)
    assert read_folder(pets, tmp_path / "raw") == {"train": EXPECTED, "test": {100: 0, 200: 1}}


def test_linked_class_folders_are_followed_once(tmp_path: Path, pets: Path) -> None:
    (pets / "dogs").rename(tmp_path / "elsewhere")
    (pets / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert read_folder(pets, tmp_path / "raw") == {"train": EXPECTED}


def test_any_part_of_a_split_mixes_the_classes() -> None:
    names = [f"{label}/{number}.png" for label in "ab" for number in range(500)]
    split = image_folder.layout_of(names, Path("x")).splits["train"]
    assert sorted(name for name, _ in split) == sorted(names)
    assert abs(sum(label for _, label in split[:100]) - 50) < 25


BAD_LAYOUTS = {
    "no images": [],
    "'1.png' lies in no class folder": ["1.png", "cats/2.png"],
    "'train/1.png' lies in no class folder": ["train/1.png", "test/cats/1.png"],
    "different classes: dogs, fish": ["train/cats/1.png", "train/dogs/1.png", "test/cats/1.png", "test/fish/1.png"],
    "'extra' beside train and test": ["train/cats/1.png", "test/cats/1.png", "extra/cats/1.png"],
    "a test split and no train": ["test/cats/1.png", "val/cats/1.png"],
}


@pytest.mark.parametrize("message", BAD_LAYOUTS)
def test_folders_that_make_no_sense_are_said(message: str) -> None:
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        image_folder.layout_of(BAD_LAYOUTS[message], Path("here"))


def test_a_class_may_be_called_train() -> None:
    layout = image_folder.layout_of(["plane/1.png", "train/1.png"], Path("x"))
    assert layout.classes == ("plane", "train") and set(layout.splits) == {"train"}


def test_bad_paths_are_said(tmp_path: Path, pets: Path) -> None:
    archive = zipped(pets, tmp_path / "pets.zip")
    whole = archive.read_bytes()

    def message(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            read_folder(path, tmp_path / "raw")
        assert not (tmp_path / "raw").exists()
        return str(caught.value)

    assert "data.path: there is no" in message(tmp_path / "gone")
    archive.write_bytes(whole[:-100])
    assert "no directory and no whole zip" in message(archive)
    start = whole.index(b"cats/05.png") + len("cats/05.png") + 20
    archive.write_bytes(whole[:start] + bytes([whole[start] ^ 0xFF]) + whole[start + 1 :])
    assert "damaged archive" in message(archive) and "pets.zip" in message(archive)


def test_a_member_larger_than_it_may_be_is_refused(tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "_MOST_BYTES", 10)
    with pytest.raises(UserError, match=r"'cats/00\.png' has \d+ bytes; at most 10"):
        read_folder(zipped(pets, tmp_path / "pets.zip"), tmp_path / "raw")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nnonsense", None])
def test_a_damaged_image_is_named(tmp_path: Path, pets: Path, content: bytes | None) -> None:
    path = pets / "dogs" / "13.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with atomic_folder(tmp_path / "raw") as raw:
        image_folder.SOURCE.download(origin(tmp_path, path=pets), raw)
    with (
        pytest.raises(UserError, match=r"data\.path: 'dogs/13\.png' is no readable image .*Replace or remove it"),
        image_folder.SOURCE.open(tmp_path / "raw") as dataset,
    ):
        normalize(dataset, tmp_path / "data", source="x", channels=1, size=8, test_fraction=0.5)
    assert not (tmp_path / "data").exists()


def test_a_decompression_bomb_is_refused(tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"no readable image .*decompression bomb"):
        read_folder(pets, tmp_path / "raw")


def test_orientation_depth_and_palette(tmp_path: Path) -> None:
    """An EXIF rotation is undone, 16 bits become 8, and the first frame of a film is the image."""
    folder = tmp_path / "odd"
    (folder / "a").mkdir(parents=True)
    lit = Image.new("L", (16, 16), 0)
    lit.paste(255, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right: the upper half becomes the right one
    lit.save(folder / "a" / "1.png", exif=exif)
    Image.fromarray(np.full((8, 8), 257 * 77, dtype=np.uint16)).save(folder / "a" / "2.png")
    frames = [Image.new("L", (8, 8), value) for value in (50, 150)]
    frames[0].save(folder / "a" / "3.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "raw").mkdir()
    image_folder.SOURCE.download(origin(tmp_path, path=folder), tmp_path / "raw")
    names = [
        name
        for name, _ in image_folder.layout_of([f"a/{n}" for n in ("1.png", "2.png", "3.gif")], folder).splits["train"]
    ]
    with image_folder.SOURCE.open(tmp_path / "raw") as dataset:
        found = {name: to_square(dataset.splits["train"].decode(i), 1, 16)[..., 0] for i, name in enumerate(names)}
    assert found["a/1.png"][:, :8].max() == 0 and found["a/1.png"][:, 8:].min() == 255
    assert set(np.unique(found["a/2.png"])) == {77}
    assert set(np.unique(found["a/3.gif"])) == {50}


# The registry and the stages


def test_every_source_is_found_and_a_misspelt_one_is_corrected() -> None:
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "image_folder"} <= set(sources.names())
    for name in sources.names():
        assert sources.find(name)
    with pytest.raises(UserError, match=r"data\.source: there is no source 'minst'\. Did you mean 'mnist'\?"):
        sources.find("minst")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path / "project"


def stage(project: Path, name: str, limit: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"{limit} exec '{sys.executable}' -m pipeline.stages.{name}"
    return subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)


def params(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_stages_make_the_same_digits_every_time(project: Path) -> None:
    made = []
    for _ in range(2):
        for name in ("download", "normalize"):
            done = stage(project, name)
            assert done.returncode == 0, done.stderr
        made.append(contents(project / "out"))
    assert made[0] == made[1]
    dataset = open_dataset(project / "out" / "data")
    assert dataset.info["source"] == "digits" and dataset.spec == ImageSpec(channels=1, size=16, classes=10)
    assert len(dataset.splits["train"]) + len(dataset.splits["test"]) == 1797
    assert split_images(project / "out" / "data", "train").max() == 255


def test_bad_input_gets_one_line_and_leaves_nothing(project: Path) -> None:
    params(project, "source: digits", "source: digit")
    done = stage(project, "download")
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "error: params.yaml: data.source: there is no source 'digit'. Did you mean 'digits'?"
    ]
    params(project, "source: digit ", "source: digits ")
    done = stage(project, "download", limit="ulimit -f 20;")  # no file beyond 20 blocks: a full disk's twin
    assert done.returncode == 1 and done.stderr.splitlines() == ["error: out/raw: File too large."]
    assert [path.name for path in (project / "out").iterdir()] == []
    done = stage(project, "normalize")
    assert done.returncode == 1 and done.stderr.startswith("error: out/raw: not this source's files")
    assert len(done.stderr.splitlines()) == 1


def test_the_stages_import_nothing_heavy_before_they_work() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'mlflow', 'ray'}"
    code = f"import sys, pipeline.stages.download, pipeline.stages.normalize; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Real images


def test_mnist_from_a_recompressed_mirror(tmp_path: Path, mnist_folder: Path) -> None:
    source = sources.find("mnist")
    (tmp_path / "raw").mkdir()
    source.download(origin(tmp_path, mnist_folder), tmp_path / "raw")
    with source.open(tmp_path / "raw") as dataset:
        train = dataset.splits["train"]
        few = RawDataset(dataset.classes, {"train": train.take(np.arange(500)), "test": train.take(np.arange(50))})
        info = normalize(few, tmp_path / "data", source="mnist", channels=1, size=28, test_fraction=0.2)
        np.testing.assert_array_equal(split_images(tmp_path / "data", "train")[7, ..., 0], np.asarray(train.decode(7)))
        assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert len(dataset.splits["test"].labels) == 10_000
    assert abs(info["mean"][0] - 0.1307) < 0.01 and abs(info["std"][0] - 0.3081) < 0.01


def test_cifar_images_from_a_zip_in_colour(tmp_path: Path, cifar_zip: Path) -> None:
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(cifar_zip) as everything, zipfile.ZipFile(few, "w") as chosen:
        for name in everything.namelist():
            if name.endswith(("000.jpg", "001.jpg", "002.jpg")):
                chosen.writestr(name, everything.read(name))
    (tmp_path / "raw").mkdir()
    image_folder.SOURCE.download(origin(tmp_path, path=few), tmp_path / "raw")
    with image_folder.SOURCE.open(tmp_path / "raw") as dataset:
        info = normalize(dataset, tmp_path / "data", source="image_folder", channels=3, size=32, test_fraction=0.2)
        expected = np.asarray(dataset.splits["train"].decode(4))
    assert info["classes"][0] == "airplane" and info["classes"][-1] == "truck"
    assert len(set(info["splits"]["train"]["class_counts"])) == 1 == len(set(info["splits"]["test"]["class_counts"]))
    np.testing.assert_array_equal(split_images(tmp_path / "data", "train")[4], expected)
    spec = json.loads((tmp_path / "data" / "spec.json").read_text())
    assert spec == info and set(spec) == {"source", "channels", "size", "classes", "splits", "mean", "std", "digest"}
    np.testing.assert_allclose(spec["mean"], (0.491, 0.482, 0.447), atol=0.05)
