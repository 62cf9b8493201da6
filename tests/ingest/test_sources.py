"""Sources that torchvision decodes: what they accept, what they refuse, what comes out."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets import utils as torchvision_utils
from toy_data import origin, split_images

from pipeline.errors import UserError
from pipeline.files import atomic_folder
from pipeline.ingest import remote_file, sources
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.shards import Work
from pipeline.ingest.source import RawDataset
from pipeline.ingest.torchvision_dataset import TorchvisionDataset, mnist_like

RNG = np.random.default_rng


def test_every_source_is_found_and_a_misspelt_one_is_corrected() -> None:
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "image_folder"} <= set(sources.names())
    for name in sources.names():
        assert sources.find(name)
    with pytest.raises(UserError, match=r"data\.source: there is no source 'minst'\. Did you mean 'mnist'\?"):
        sources.find("minst")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own downloads, none of which may be reached."""

    def reached(*_: Any, **__: Any) -> None:
        pytest.fail("torchvision went to the network")

    for name in ("_urlretrieve", "download_url", "_get_redirect_url"):
        monkeypatch.setattr(torchvision_utils, name, reached)


# MNIST's format


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 | array.ndim, *array.shape) + array.tobytes()


@dataclass
class Published:
    """A small dataset in MNIST's format: the source that expects it, and its files in a folder."""

    folder: Path
    source: TorchvisionDataset
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

    class SmallMNIST(MNIST):
        mirrors = ("http://127.0.0.1:9/gone/",)
        resources = [(name, "unknown") for name in content]  # noqa: RUF012

    hashes = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in content.items()}
    (tmp_path / "mirror").mkdir()
    made = Published(tmp_path / "mirror", mnist_like(SmallMNIST, hashes), content)
    for name, data in content.items():
        made.put(name, data)
    return made


def with_file(source: TorchvisionDataset, name: str, **changes: Any) -> TorchvisionDataset:
    """The source with other hashes for one file."""
    files = tuple(replace(file, **changes) if file.name == name else file for file in source.files)
    return replace(source, files=files)


def test_idx_files_are_read_as_published(tmp_path: Path, published: Published) -> None:
    with atomic_folder(tmp_path / "raw") as raw:
        published.source.download(origin(tmp_path, published.folder), raw)
    with published.source.open(tmp_path / "raw", origin(tmp_path)) as dataset:
        split = dataset.splits["test"]
        expected = np.frombuffer(published.content["t10k-images-idx3-ubyte.gz"][16:], np.uint8).reshape(-1, 28, 28)
        np.testing.assert_array_equal(np.stack([np.asarray(split.decode(i)) for i in range(10)]), expected)
        np.testing.assert_array_equal(split.labels, list(published.content["t10k-labels-idx1-ubyte.gz"][8:]))
        assert split.labels.dtype == np.int64 and len(dataset.splits["train"].labels) == 30
        assert dataset.classes == tuple(MNIST.classes)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_mirror_may_compress_anew(tmp_path: Path, published: Published, as_url: bool) -> None:
    name = "train-images-idx3-ubyte.gz"
    made = []
    for level in (9, 1):
        published.put(name, published.content[name], level)
        with atomic_folder(tmp_path / "raw") as raw:
            mirror = published.folder.as_uri() if as_url else str(published.folder)
            published.source.download(origin(tmp_path, mirror), raw)
        made.append({path.name: path.read_bytes() for path in (tmp_path / "raw").rglob("*") if path.is_file()})
    assert made[0] == made[1] == {name.removesuffix(".gz"): data for name, data in published.content.items()}


def test_the_published_hash_of_the_gz_file_will_do_too(tmp_path: Path, published: Published) -> None:
    name = "t10k-labels-idx1-ubyte.gz"
    md5 = hashlib.md5((published.folder / name).read_bytes()).hexdigest()
    (tmp_path / "raw").mkdir()
    source = with_file(published.source, name, content=None, digest=f"md5:{md5}")
    source.download(origin(tmp_path, published.folder), tmp_path / "raw")
    for content in (None, "md5:unknown"):
        with pytest.raises(UserError, match="not the published file"):
            with_file(published.source, name, content=content).download(
                origin(tmp_path, published.folder), tmp_path / "raw"
            )


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


def test_a_decompression_bomb_is_left_at_the_bound(
    tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_file, "_MOST_BYTES", 2**21)
    published.put("train-images-idx3-ubyte.gz", bytes(2**26))
    with pytest.raises(UserError, match=f"unpacks to more than {2**21} bytes"):
        published.source.download(origin(tmp_path, published.folder), tmp_path)


def test_what_a_mirror_lacks_is_said(tmp_path: Path, published: Published) -> None:
    (published.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"data\.mirror: .* has no file 't10k-labels-idx1-ubyte\.gz'"):
        published.source.download(origin(tmp_path, published.folder), tmp_path)
    with pytest.raises(UserError, match=r"data\.mirror: there is no directory '.*gone'"):
        published.source.download(origin(tmp_path, tmp_path / "gone"), tmp_path)


def test_another_sources_files_are_refused(tmp_path: Path, published: Published) -> None:
    for name in ("mnist", "cifar10", "digits", "image_folder"):
        with (
            pytest.raises(UserError, match="not this source's files"),
            sources.find(name).open(published.folder, origin(tmp_path)),
        ):
            pass


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_a_file_that_is_cut_after_the_download_is_refused(tmp_path: Path, published: Published, keep: int) -> None:
    with atomic_folder(tmp_path / "raw") as raw:
        published.source.download(origin(tmp_path, published.folder), raw)
    path = next((tmp_path / "raw").rglob("train-images-idx3-ubyte"))
    path.write_bytes(path.read_bytes()[:keep])
    with (
        pytest.raises(UserError, match="not this source's files"),
        published.source.open(tmp_path / "raw", origin(tmp_path)),
    ):
        pass


def test_mnist_from_a_recompressed_mirror(tmp_path: Path, mnist_folder: Path) -> None:
    source = sources.find("mnist")
    (tmp_path / "raw").mkdir()
    source.download(origin(tmp_path, mnist_folder), tmp_path / "raw")
    with source.open(tmp_path / "raw", origin(tmp_path)) as dataset:
        train = dataset.splits["train"]
        splits = {"train": train.take(np.arange(500)), "test": train.take(np.arange(50))}
        info = normalize(
            RawDataset(classes=dataset.classes, splits=splits), tmp_path / "data", tmp_path / "images",
            Normalization(channels=1, size=28), source="mnist", test_fraction=0.2,
            work=Work(folder=tmp_path / "work", identity=""),
        )  # fmt: skip
        np.testing.assert_array_equal(split_images(tmp_path / "data", "train")[7, ..., 0], np.asarray(train.decode(7)))
        assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert len(dataset.splits["test"].labels) == 10_000
    assert abs(info["mean"][0] - 0.1307) < 0.01 and abs(info["std"][0] - 0.3081) < 0.01


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
    """A small CIFAR-10: its members, and the images as (n, h, w, c)."""

    members: dict[str, bytes]
    images: NDArray[np.uint8]
    labels: list[int]

    def put(self, folder: Path, **changes: bytes) -> TorchvisionDataset:
        """The source whose published archive is now in the folder, with the members that this one has, or others."""
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / "c.tar.gz", "w:gz") as tar:
            for name, content in (self.members | changes).items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in self.members.items()}

        class SmallCIFAR10(CIFAR10):
            train_list = [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")]  # noqa: RUF012
            test_list = [["test_batch", md5["test_batch"]]]  # noqa: RUF012
            meta = CIFAR10.meta | {"md5": md5["batches.meta"]}

        whole = hashlib.md5((folder / "c.tar.gz").read_bytes()).hexdigest()
        return TorchvisionDataset(dataset=SmallCIFAR10, files=(RemoteFile.at("http://127.0.0.1:9/c.tar.gz", whole),))


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
    return Archive(members, images, labels)


def test_cifar_is_read_as_python_2_wrote_it(tmp_path: Path, archive: Archive) -> None:
    source = archive.put(tmp_path / "mirror")
    (tmp_path / "raw").mkdir()
    source.download(origin(tmp_path, tmp_path / "mirror"), tmp_path / "raw")
    with source.open(tmp_path / "raw", origin(tmp_path)) as dataset:
        train, test = dataset.splits["train"], dataset.splits["test"]
        decoded = [split.decode(i) for split in (train, test) for i in range(len(split.labels))]
        assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in decoded)
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in decoded]), archive.images)
        assert [*train.labels, *test.labels] == archive.labels
        assert dataset.classes == tuple("abcdefghij")


def test_the_real_cifar_is_what_torchvision_publishes() -> None:
    source = sources.find("cifar10")
    assert isinstance(source, TorchvisionDataset) and source.dataset is CIFAR10
    assert [(file.urls, file.name, file.digest) for file in source.files] == [
        (("https://www.cs.toronto.edu/~kriz",), "cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a")
    ]


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_cifar_runs_no_code_of_the_archive(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of an archive that is not the published one, nor of a member that was changed after the download."""
    monkeypatch.chdir(tmp_path)
    evil = {name: pickle.dumps(_Evil(), protocol=2) for name in ("data_batch_1", "test_batch", "batches.meta")}
    honest = archive.put(tmp_path / "honest")
    archive.put(tmp_path / "mirror", **evil)
    with pytest.raises(UserError, match=r"c\.tar\.gz: damaged: not the published file"):
        honest.download(origin(tmp_path, tmp_path / "mirror"), tmp_path)
    for name, content in evil.items():
        with atomic_folder(tmp_path / "raw") as raw:
            honest.download(origin(tmp_path, tmp_path / "honest"), raw)
        (tmp_path / "raw" / "cifar-10-batches-py" / name).write_bytes(content)
        with pytest.raises(UserError, match="not this source's files"), honest.open(tmp_path / "raw", origin(tmp_path)):
            pass
    assert not (tmp_path / "evil").exists()
    pickle.loads(evil["test_batch"])  # the members are as evil as this test believes
    assert (tmp_path / "evil").exists()


def test_a_damaged_cifar_archive_is_named(tmp_path: Path, archive: Archive) -> None:
    source = archive.put(tmp_path / "mirror")
    packed = (tmp_path / "mirror" / "c.tar.gz").read_bytes()
    for damaged in (packed[:-4000], _flip(packed), b"", b"not an archive", gzip.compress(bytes(10**7))):
        (tmp_path / "mirror" / "c.tar.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"c\.tar\.gz: damaged"):
            source.download(origin(tmp_path, tmp_path / "mirror"), tmp_path)
    assert not (tmp_path / "cifar-10-batches-py").exists()
