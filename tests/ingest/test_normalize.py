"""Images that come out as they went in, and a stratified test split."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_data import split_images

from pipeline.ingest.normalize import hold_out, normalize, to_square
from pipeline.ingest.source import RawDataset, RawSplit

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
