"""WebDataset shards: keys, labels, what can't be used, and that nothing is unpacked."""

import gzip
import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from published import (
    FILES,
    as_file,
    images_of,
    jpeg,
    left_out,
    named,
    opened_own,
    own_origin,
    picture,
    put,
    shades,
    tar_bytes,
)

from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.source import UNLABELED, UnreadableError
from pipeline.ingest.sources.webdataset import key_of

SHARD = FILES / "webdataset-train-000000.tar"


def test_a_shard_of_webdatasets_own_writer(tmp_path: Path) -> None:
    with opened_own("webdataset", tmp_path, SHARD) as dataset:
        train, name = dataset.splits["train"], SHARD.name
        assert dataset.classes == ("0", "1", "2") and set(dataset.splits) == {"train"}
        assert named(train) == {f"{name}/a/0001": 2, f"{name}/a/0002": 0, f"{name}/a/0003": 1}
        first = np.asarray(train.decode(0))
        assert (
            first.shape == (5, 7, 3) and first[0, 0].tolist() == [255, 255, 255] and first[1, 1].tolist() == [200, 0, 0]
        )
        assert left_out(dataset) == {
            f"{name}/a/img_0": "several images under one key",
            f"{name}/a/0004": "sample without an image",
        }
        assert "img_0.5.png, img_0.7.png: the key ends at the first dot" in {one.detail for one in dataset.left_out}
        with tarfile.open(SHARD) as tar:
            content = tar.extractfile("a/0001.png")
            assert content is not None and train.digests is not None
            assert train.digests[0] == hashlib.sha256(content.read()).hexdigest()
    assert {path.suffix for path in (tmp_path / "downloads").rglob("*") if path.is_file()} == {".json"}


def test_labels_from_a_field_of_the_json(tmp_path: Path) -> None:
    with opened_own("webdataset", tmp_path, SHARD, labels="mood") as dataset:
        assert dataset.classes == ("glad", "sad")
        assert named(dataset.splits["train"]) == {f"{SHARD.name}/a/0002": 0, f"{SHARD.name}/a/0003": 1}
        assert left_out(dataset)[f"{SHARD.name}/a/0001"] == "no label"
    with opened_own("webdataset", tmp_path, SHARD, labels="none") as dataset:
        assert dataset.classes == (UNLABELED,) and dataset.splits["train"].labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.c.PNG", ("a/b", "c.png")),
        ("0001.jpg", ("0001", "jpg")),
        ("x.y/0001.jpg", ("x.y/0001", "jpg")),
        ("img_0.5.png", ("img_0", "5.png")),
        ("no_suffix", ("no_suffix", "")),
    ],
)
def test_the_key_ends_at_the_first_dot_of_the_name(name: str, key: tuple[str, str]) -> None:
    assert key_of(name) == key


def test_members_that_are_not_adjacent_are_one_sample_here(tmp_path: Path) -> None:
    members = {"1.jpg": jpeg(50), "2.jpg": jpeg(100), "1.cls": b"1", "2.cls": b"0"}
    folder = put(tmp_path / "shards", {"0.tar": tar_bytes(members)})
    with opened_own("webdataset", tmp_path, folder) as dataset:
        assert shades(dataset.splits["train"]) == {50: 1, 100: 0} and not dataset.left_out


def test_the_same_image_twice_under_one_key_is_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("1.jpg", jpeg(50)), ("1.jpg", jpeg(90)), ("2.jpg", jpeg(100))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    folder = put(tmp_path / "shards", {"0.tar": buffer.getvalue()})
    with opened_own("webdataset", tmp_path, folder) as dataset:
        assert shades(dataset.splits["train"]) == {100: 0}
        assert left_out(dataset) == {"0.tar/1": "several images under one key"}


def shards(tmp_path: Path) -> Path:
    files = {f"train-{n:04}.tar": tar_bytes({f"{n}.jpg": jpeg(20 * n), f"{n}.cls": b"0"}) for n in (1, 2, 3)}
    files |= {"val-0000.tar": tar_bytes({"9.jpg": jpeg(200), "9.cls": b"0"}), "README.md": b"shards"}
    return put(tmp_path / "shards", files)


@pytest.mark.parametrize("path", ["shards", "shards/*.tar", "shards/{train-{0001..0003},val-0000}.tar"])
def test_shards_by_folder_glob_and_braces(tmp_path: Path, path: str) -> None:
    shards(tmp_path)
    with opened_own("webdataset", tmp_path, path) as dataset:
        assert shades(dataset.splits["train"]) == {20: 0, 40: 0, 60: 0} and shades(dataset.splits["test"]) == {200: 0}
        assert dataset.splits["train"].name(1) == "train-0002.tar/2"


def test_a_shard_that_is_missing_from_a_range_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    with (
        pytest.raises(UserError, match=r"no file is 'train-0004\.tar', which 'shards/train-\{0001\.\.0004\}\.tar'"),
        opened_own("webdataset", tmp_path, "shards/train-{0001..0004}.tar"),
    ):
        pass


def test_one_more_shard_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.ingest.sources import webdataset

    folder, asked, key = shards(tmp_path), [], webdataset.key_of
    monkeypatch.setattr(webdataset, "key_of", lambda name: asked.append(name) or key(name))
    with opened_own("webdataset", tmp_path, folder) as dataset:
        before = dict(zip(dataset.splits["train"].names or (), dataset.splits["train"].digests or (), strict=True))
    asked.clear()
    put(folder, {"train-0004.tar": tar_bytes({"4.jpg": jpeg(80), "4.cls": b"0"})})
    with opened_own("webdataset", tmp_path, folder) as dataset:
        after = dict(zip(dataset.splits["train"].names or (), dataset.splits["train"].digests or (), strict=True))
    assert asked == ["4.jpg", "4.cls"]
    assert before.items() <= after.items() and len(after) == len(before) + 1


def test_a_compressed_shard_is_unpacked_once_to_a_tar(tmp_path: Path) -> None:
    folder = put(tmp_path / "shards", {"0.tar.gz": gzip.compress(tar_bytes({"1.png": as_file(picture(1))}))})
    with opened_own("webdataset", tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"])[0], picture(1))


def damaged_header() -> bytes:
    """A shard of two samples, in which a bit of the second one's header is flipped."""
    content = bytearray(tar_bytes({"1.jpg": jpeg(50), "2.jpg": jpeg(90)}))
    second = content.index(b"2.jpg")
    content[second + 150] ^= 1  # its checksum
    return bytes(content)


@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut in an image", "no tar", "empty"])
def test_a_damaged_shard_is_named_and_never_short(tmp_path: Path, damage: str) -> None:
    whole = tar_bytes({"1.jpg": jpeg(50), "2.jpg": jpeg(90)})
    content = {
        "header": damaged_header(),
        "cut in a header": whole[: whole.index(b"2.jpg") + 100],
        "cut in an image": whole[: whole.index(b"2.jpg") + 600],
        "no tar": b"<html>" * 200,
        "empty": b"",
    }[damage]
    folder = put(tmp_path / "shards", {"0.tar": content})
    with pytest.raises(UserError, match=r"0\.tar: damaged"), opened_own("webdataset", tmp_path, folder):
        pass


def test_a_damaged_image_is_left_to_quarantine(tmp_path: Path) -> None:
    folder = put(tmp_path / "shards", {"0.tar": tar_bytes({"1.jpg": jpeg(50), "2.jpg": b"\xff\xd8 no image"})})
    with opened_own("webdataset", tmp_path, folder) as dataset, pytest.raises(UnreadableError):
        dataset.splits["train"].decode(1)


def test_many_threads_read_the_same_images(tmp_path: Path) -> None:
    members = {f"{n:03}.png": as_file(picture(n)) for n in range(40)}
    folder = put(tmp_path / "shards", {"0.tar": tar_bytes(members)})
    with opened_own("webdataset", tmp_path, folder) as dataset, ThreadPoolExecutor(8) as pool:
        numbers = [n % 40 for n in range(400)]
        for number, image in zip(numbers, pool.map(dataset.splits["train"].decode, numbers), strict=True):
            np.testing.assert_array_equal(np.asarray(image), picture(number))


def test_a_shard_that_changes_after_the_listing_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    source = sources.find("webdataset")
    given = own_origin(source, tmp_path, folder)
    (tmp_path / "raw").mkdir()
    source.download(given, tmp_path / "raw")
    tars = {
        "a larger one": tar_bytes({"1.jpg": jpeg(20), "2.jpg": bytes(20_000)}),
        "one of its size": tar_bytes({"1.jpg": jpeg(21)}),
    }
    for content in tars.values():
        put(folder, {"train-0001.tar": content})
        with (
            pytest.raises(UserError, match="has changed since it was listed"),
            source.open(tmp_path / "raw", given) as dataset,
        ):
            images_of(dataset.splits["train"])
