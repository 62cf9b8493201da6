"""Equal and nearly equal images are found, and others are not."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import Dataset, NewSplit, open_dataset, write_dataset
from pipeline.ingest import duplicates
from pipeline.ingest.duplicates import find_duplicates

RNG = np.random.default_rng


def scenes(count: int, size: int = 16, channels: int = 3) -> NDArray[np.uint8]:
    """Smooth random images, none like another."""
    small = RNG(0).integers(0, 256, (count, 5, 5, channels), dtype=np.uint8)
    large = [
        np.asarray(Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BICUBIC)) for image in small
    ]
    return np.stack(large).reshape(count, size, size, channels)


def dataset(folder: Path, train: NDArray[np.uint8], test: NDArray[np.uint8]) -> Dataset:
    splits = {"train": train, "test": test}
    write_dataset(
        folder,
        source="toy",
        spec=ImageSpec(channels=train.shape[-1], size=train.shape[1], classes=1),
        classes=["images"],
        splits={name: NewSplit(np.zeros(len(images), dtype=np.int64), [images]) for name, images in splits.items()},
    )
    return open_dataset(folder)


def recompressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("every", [True, False])
def test_planted_duplicates_are_found_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    images = scenes(300)
    train, test = images[:250].copy(), images[250:].copy()
    test[3] = train[100]  # equal, across
    test[7] = recompressed(train[120])
    test[9] = (train[130] * 0.8 + 20).astype(np.uint8)  # darker and flatter
    train[200] = train[20]  # equal, within
    train[210] = recompressed(train[30])
    if not every:
        monkeypatch.setattr(duplicates, "ALL_PAIRS", 100)
    monkeypatch.setattr(duplicates, "_BLOCK", 64)
    found = find_duplicates(dataset(tmp_path / "d", train, test))
    pairs = {(tuple(pair.first), tuple(pair.second)): pair.equal for pair in found.pairs}
    across = {
        (("test", 3), ("train", 100)): True,
        (("test", 7), ("train", 120)): False,
        (("test", 9), ("train", 130)): False,
    }
    within = {(("train", 20), ("train", 200)): True, (("train", 30), ("train", 210)): False}
    if not every:  # equal ones are found always
        within.pop((("train", 30), ("train", 210)))
    assert pairs == across | within and found.all_compared == every and not found.cut
    assert [pair.across for pair in found.pairs][:3] == [True] * 3
    assert found.across("test") == 3 == found.across("train")


def test_images_without_a_pattern_are_duplicates_only_if_equal(tmp_path: Path) -> None:
    flat = np.stack([np.full((16, 16, 1), shade, dtype=np.uint8) for shade in (0, 1, 128, 255)])
    found = find_duplicates(dataset(tmp_path / "d", flat, flat[2:3]))
    assert [(tuple(pair.first), tuple(pair.second)) for pair in found.pairs] == [(("test", 0), ("train", 2))]


def test_many_copies_of_one_image_make_few_pairs(tmp_path: Path) -> None:
    train = np.repeat(scenes(1), 500, axis=0)
    found = find_duplicates(dataset(tmp_path / "d", train, scenes(2)[1:]))
    assert len(found.pairs) == 499 and all(pair.equal and pair.first.number == 0 for pair in found.pairs)


def test_more_candidates_than_are_compared_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MOST", 100)
    noisy = scenes(1).astype(int) + RNG(1).integers(-6, 7, (60, 16, 16, 3))
    found = find_duplicates(dataset(tmp_path / "d", noisy.clip(0, 255).astype(np.uint8), scenes(3)[1:]))
    assert found.cut and 0 < len(found.pairs) <= 100
