"""Shards that hold what was written, under a digest of their content."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from toy_data import split_images

from pipeline.core.batch import ImageSpec
from pipeline.data import dataset as shards
from pipeline.data.dataset import ArrayStore, NewSplit, open_dataset, write_dataset

RNG = np.random.default_rng


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

    monkeypatch.setattr(shards, "new_array", lambda path, *_: Full(path, "w"))
    with pytest.raises(OSError) as caught:
        write(tmp_path / "data", 255 - toy[0], toy[1])
    assert caught.value.filename == str(tmp_path / "data")
    assert open_dataset(tmp_path / "data").digest == old["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
