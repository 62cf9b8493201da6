"""Images that come out as they went in, and a stratified test split."""

import hashlib
import shutil
import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_data import split_images

from pipeline.errors import UserError
from pipeline.files import read_csv
from pipeline.ingest.decode import decode
from pipeline.ingest.normalize import Normalization, hold_out, hold_out_by_content, normalize, to_square
from pipeline.ingest.shards import Work
from pipeline.ingest.source import RawDataset, RawSplit, UnreadableError

RNG = np.random.default_rng


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


def made(tmp_path: Path, raw: RawDataset, name: str = "d", **options: Any) -> dict[str, Any]:
    work = options.pop("work", Work(folder=tmp_path / "work", identity=""))
    normalization = options.pop("normalization", Normalization(channels=1, size=8))
    return normalize(
        raw, tmp_path / name, tmp_path / f"{name}-images", normalization, source="toy", test_fraction=0.25, work=work,
        **options,
    )  # fmt: skip


def test_normalize_holds_out_and_reports_all(tmp_path: Path) -> None:
    images = RNG(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    split = RawSplit(labels=labels, decode=lambda number: Image.fromarray(images[number]))
    told: dict[str, tuple[int, int | None]] = {}
    info = made(
        tmp_path,
        RawDataset(classes=("even", "odd"), splits={"train": split}),
        report=lambda name, done, total: told.update({name: (done, total)}),
    )
    train, test = hold_out(labels, 0.25)
    np.testing.assert_array_equal(split_images(tmp_path / "d", "train")[..., 0], images[train])
    np.testing.assert_array_equal(split_images(tmp_path / "d", "test")[..., 0], images[test])
    assert {name: entry["count"] for name, entry in info["splits"].items()} == {"train": 30, "test": 10}
    assert told == {"normalizing train": (30, 30), "normalizing test": (10, 10)}


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_all_of_an_image_is_kept_where_asked(fit: str) -> None:
    wide = np.full((8, 16), 100, dtype=np.uint8)
    wide[:, :2] = wide[:, -2:] = 0
    found = Normalization(channels=1, size=16, fit=fit, background="#ff0000")(Image.fromarray(wide))[..., 0]
    assert found[8, 0] < 30 and found[8, -1] < 30 and found[8, 8] == 100
    if fit == "pad":
        red = round(0.299 * 255)
        assert (found[:3] == red).all() and (found[-3:] == red).all()
    else:
        assert (found[:, 8] == 100).all()


def test_a_transparent_image_lies_on_the_background() -> None:
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    on_blue = Normalization(channels=3, size=4, background="blue")(clear)
    assert on_blue.reshape(-1, 3).tolist() == [[0, 0, 255]] * 16


def test_a_colour_profile_is_applied_or_ignored() -> None:
    """Adobe RGB's green is a stronger green than sRGB can show; its gray axis is the same."""
    profile = adobe_rgb()
    file = BytesIO()
    Image.new("RGB", (4, 4), (100, 200, 100)).save(file, "PNG", icc_profile=profile)
    image = decode(file.getvalue())
    kept = Normalization(channels=3, size=4, profile="keep")(image)[0, 0].tolist()
    srgb = Normalization(channels=3, size=4)(image)[0, 0].tolist()
    assert kept == [100, 200, 100] and srgb[0] < 60 and 195 <= srgb[1] <= 210
    file = BytesIO()
    Image.new("RGB", (4, 4), (128, 128, 128)).save(file, "PNG", icc_profile=profile)
    gray = Normalization(channels=3, size=4)(decode(file.getvalue()))[0, 0].astype(int)
    assert np.ptp(gray) <= 2


def adobe_rgb() -> bytes:
    """A profile with Adobe RGB (1998)'s primaries and gamma 2.2, built by the ICC's rules."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"test profile\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = {
        b"desc": desc, b"wtpt": xyz(0.9642, 1.0, 0.8249), b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087), b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    header += bytes(28) + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def grown(count: int) -> RawDataset:
    """Images that may be added to: the first of them are the same whatever ``count`` is."""
    images = RNG(0).integers(0, 256, (400, 8, 8), dtype=np.uint8)[:count]
    split = RawSplit(
        labels=np.zeros(count, dtype=np.int64),
        decode=lambda number: Image.fromarray(images[number]),
        names=[f"{number:04}.png" for number in range(count)],
        digests=[hashlib.sha256(image.tobytes()).hexdigest() for image in images],
    )
    return RawDataset(classes=("images",), splits={"train": split})


def names_of(folder: Path, split: str) -> set[str]:
    return {row["name"] for row in read_csv(folder / "images.csv") if row["split"] == split}


def test_added_images_move_none_of_the_others(tmp_path: Path) -> None:
    made(tmp_path, grown(300), "few")
    made(tmp_path, grown(400), "many")
    few, many = (
        {name: names_of(tmp_path / f"{folder}-images", name) for name in ("train", "test")}
        for folder in ("few", "many")
    )
    assert few["train"] < many["train"] and few["test"] < many["test"]
    assert 60 <= len(many["test"]) <= 140  # 100 +- 4 standard deviations and some


def test_copies_of_an_image_fall_into_one_split() -> None:
    digests = [hashlib.sha256(bytes([number % 50])).hexdigest() for number in range(100)]
    train, test = hold_out_by_content(digests, 0.3)
    assert not {digests[number] for number in train} & {digests[number] for number in test}
    for fraction in (1e-9, 1 - 1e-9):
        train, test = hold_out_by_content(digests, fraction)
        assert len(train) and len(test)
    assert len(hold_out_by_content(digests[:1], 0.5)[1]) == 0


def test_a_new_image_changes_only_the_shard_that_it_falls_into(tmp_path: Path) -> None:
    decoded: list[int] = []

    def counting(raw: RawDataset) -> RawDataset:
        split = raw.splits["train"]

        def decode_one(number: int) -> Image.Image:
            decoded.append(number)
            return split.decode(number)

        return replace(raw, splits={"train": replace(split, decode=decode_one)})

    cache: dict[str, Path] = {}
    work = Work(folder=tmp_path / "work", identity="", finished=cache.get, mean_bytes=64 * 20, most_bytes=64 * 60)
    made(tmp_path, counting(grown(399)), work=work)
    first = contents(tmp_path / "d")
    assert len(decoded) == 399 and len([name for name in first if "train-images" in name]) >= 8
    cache |= {hashlib.md5(file.read_bytes()).hexdigest(): file for file in (tmp_path / "d").glob("*-images-*.npy")}
    for file in list(cache):  # as DVC keeps them: the folder itself is removed before a stage runs
        cache[file] = Path(shutil.copy(cache[file], tmp_path / file))
    made(tmp_path, counting(grown(400)), work=work)
    assert 0 < len(decoded) - 399 <= 60, "one shard is made anew"
    second = contents(tmp_path / "d")
    assert len(set(second.values()) & set(first.values())) >= len(first) - 4
    undisturbed = made(tmp_path, grown(400), "other", work=replace(work, folder=tmp_path / "elsewhere"))
    assert (
        contents(tmp_path / "other") == second
        and undisturbed["digest"] == made(tmp_path, grown(400), work=work)["digest"]
    )


def test_work_that_is_stopped_goes_on_at_the_shard_where_it_stopped(tmp_path: Path) -> None:
    raw, decoded = grown(400), 0
    split = raw.splits["train"]

    def stopping(number: int) -> Image.Image:
        nonlocal decoded
        decoded += 1
        if decoded == 200:
            raise KeyboardInterrupt
        return split.decode(number)

    work = Work(folder=tmp_path / "work", identity="", mean_bytes=64 * 20, most_bytes=64 * 60)
    stopped = replace(raw, splits={"train": replace(split, decode=stopping)})
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, stopped, work=work)
    assert not (tmp_path / "d").exists()
    decoded = 200
    made(tmp_path, stopped, work=work)
    assert 200 <= decoded - 200 <= 200 + 130, "what was made before was not made again"
    made(tmp_path, raw, "other", work=replace(work, folder=tmp_path / "elsewhere"))
    assert contents(tmp_path / "d") == contents(tmp_path / "other")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_much_that_is_cut_away_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = RawSplit(labels=np.arange(4) % 2, decode=lambda number: Image.new("L", (40, 10), number))
    raw = RawDataset(classes=("a", "b"), splits={"train": split})
    made(tmp_path, raw)
    assert "of 4 images more than half is cut away" in caplog.text
    caplog.clear()
    made(tmp_path, raw, normalization=Normalization(channels=1, size=8, fit="pad"))
    assert not caplog.text


def test_without_a_usable_image_nothing_is_written(tmp_path: Path) -> None:
    def refuse(number: int) -> Image.Image:
        raise UnreadableError("damaged", f"no. {number}")

    split = RawSplit(labels=np.arange(40) % 2, decode=refuse)
    with pytest.raises(UserError, match="can't be used: 30 damaged"):
        made(tmp_path, RawDataset(classes=("a", "b"), splits={"train": split}), most_bad=0.99)
    assert not (tmp_path / "d").exists()
