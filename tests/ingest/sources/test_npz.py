"""NumPy's archives: every layout, memory-mapped, and no pickle opened."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from published import images_of, opened_own

from pipeline.errors import UserError
from pipeline.ingest.npz_arrays import NpzArrays
from pipeline.ingest.source import UNLABELED


def some(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(tmp_path: Path, name: str = "a.npz", *, compressed: bool = False, **arrays: Any) -> Path:
    (tmp_path / "own").mkdir(exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "own" / name, **arrays)
    return tmp_path / "own" / name


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_medmnist(tmp_path: Path, shape: tuple[int, ...], compressed: bool) -> None:
    parts = {part: some(n, 3 + n, *shape) for n, part in enumerate(("train", "val", "test"))}
    arrays = {f"{part}_images": images for part, images in parts.items()}
    arrays |= {f"{part}_labels": np.uint8([[n % 3] for n in range(len(images))]) for part, images in parts.items()}
    with opened_own("npz", tmp_path, save(tmp_path, compressed=compressed, **arrays)) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), parts["train"])
        np.testing.assert_array_equal(images_of(dataset.splits["test"]), np.concatenate([parts["val"], parts["test"]]))
        assert dataset.splits["train"].labels.tolist() == [0, 1, 2] and dataset.classes == ("0", "1", "2")


def test_medmnist_with_several_labels_wants_none(tmp_path: Path) -> None:
    path = save(tmp_path, train_images=some(0, 3, 8, 8), train_labels=np.uint8([[0, 1], [1, 1], [0, 0]]))
    with (
        pytest.raises(UserError, match=r"a\.npz: .*several labels.*data\.labels: none"),
        opened_own("npz", tmp_path, path),
    ):
        pass
    with opened_own("npz", tmp_path, path, labels="none") as dataset:
        assert dataset.classes == (UNLABELED,) and len(dataset.splits["train"].labels) == 3


def test_dsprites_has_pixels_0_and_1(tmp_path: Path) -> None:
    images = some(0, 4, 64, 64) // 128
    latents = np.array([[0, 2, 5, 30, 1, 2], [0, 0, 1, 3, 1, 2], [0, 1, 0, 0, 0, 0], [0, 0, 5, 39, 31, 31]])
    metadata = np.array({"a": 1}, dtype=object)
    path = save(tmp_path, "d.npz", compressed=True, imgs=images, latents_classes=latents, metadata=metadata)
    with opened_own("npz", tmp_path, path) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), images * 255)
        assert dataset.classes == ("square", "ellipse", "heart")
        assert dataset.splits["train"].labels.tolist() == [2, 0, 1, 0]
    with opened_own("npz", tmp_path, path, labels="scale") as dataset:
        assert dataset.splits["train"].labels.tolist() == [5, 1, 0, 5] and len(dataset.classes) == 6
    with pytest.raises(UserError, match="no factor 'scales'"), opened_own("npz", tmp_path, path, labels="scales"):
        pass


def test_imagenet32_is_planar_with_labels_from_1(tmp_path: Path) -> None:
    images = some(0, 5, 32, 32, 3)
    planar = images.transpose(0, 3, 1, 2).reshape(5, -1)
    save(tmp_path, "train_data_batch_1.npz", data=planar[:3], labels=np.array([1, 1000, 7]), mean=planar.mean(axis=0))
    save(tmp_path, "val_data.npz", data=planar[3:], labels=np.array([2, 1]))
    with opened_own("npz", tmp_path, tmp_path / "own") as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), images[:3])
        np.testing.assert_array_equal(images_of(dataset.splits["test"]), images[3:])
        assert [dataset.classes[label] for label in dataset.splits["train"].labels] == ["0", "999", "6"]
        assert [dataset.classes[label] for label in dataset.splits["test"].labels] == ["1", "0"]


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (("images", "labels"), (6, 6, 3)),
        (("arr_0", "arr_1"), (6, 6)),
        (("arr_0", "arr_1"), (3, 6, 6)),
        (("x_train", "y_train"), (6, 6, 1)),
        (("images", "labels"), (6, 6, 4)),
    ],
)
def test_plain_arrays(tmp_path: Path, names: tuple[str, str], shape: tuple[int, ...]) -> None:
    images = some(0, 3, *shape)
    expected = images[..., 0] if shape[-1] == 1 else images.transpose(0, 2, 3, 1) if shape[0] == 3 else images
    with opened_own("npz", tmp_path, save(tmp_path, **{names[0]: images, names[1]: np.array([1, 0, 1])})) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), expected)
        assert dataset.splits["train"].labels.tolist() == [1, 0, 1]


def test_labels_may_be_names_or_one_hot(tmp_path: Path) -> None:
    images = some(0, 2, 6, 6)
    for labels, classes, expected in (
        (np.array(["dog", "cat"]), ("cat", "dog"), [1, 0]),
        (np.eye(3)[[2, 0]], ("0", "1", "2"), [2, 0]),
        (np.array([2.0, 1.0]), ("0", "1", "2"), [2, 1]),
    ):
        with opened_own("npz", tmp_path, save(tmp_path, images=images, labels=labels)) as dataset:
            assert dataset.classes == classes and dataset.splits["train"].labels.tolist() == expected


def test_arrays_are_mapped_in_their_place_or_unpacked_once(tmp_path: Path) -> None:
    images = some(0, 3, 6, 6)
    stored = NpzArrays(save(tmp_path, images=images), tmp_path / "scratch")
    array = stored.read("images")
    assert isinstance(array, np.memmap) and Path(str(array.filename)) == tmp_path / "own" / "a.npz"
    np.testing.assert_array_equal(array, images)
    assert not (tmp_path / "scratch").exists()
    packed = NpzArrays(save(tmp_path, "b.npz", compressed=True, images=images), tmp_path / "scratch")
    for _ in range(2):
        array = packed.read("images")
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, images)
    assert len(list((tmp_path / "scratch").glob("*.npy"))) == 1
    in_columns = NpzArrays(save(tmp_path, "c.npz", images=np.asfortranarray(images)), tmp_path / "scratch")
    np.testing.assert_array_equal(in_columns.read("images"), images)


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.chdir(tmp_path)
    evil = np.array([_Evil(), _Evil()], dtype=object)
    for arrays in ({"images": evil}, {"images": some(0, 2, 6, 6), "labels": evil}):
        path = save(tmp_path, compressed=compressed, **arrays)
        with pytest.raises(UserError, match=r"a\.npz: its array \w+ can't be read"), opened_own("npz", tmp_path, path):
            pass
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 6, 6), np.float32)}, "images is of float32. Save pixels as uint8"),
        ({"images": np.zeros((2, 6, 6, 6, 1), np.uint8)}, "which is not that of images"),
        ({"images": np.zeros((2, 7), np.uint8)}, "which is not that of images"),
        ({"pictures": np.zeros((2, 6, 6), np.uint8)}, "its arrays are pictures; images are looked for in"),
        ({"images": np.zeros((2, 6, 6), np.uint8), "labels": np.array([1])}, "2 images in images, and 1 labels"),
    ],
)
def test_what_is_no_images_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said), opened_own("npz", tmp_path, save(tmp_path, **arrays)):
        pass


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, compressed=True, images=some(0, 3, 60, 60))
    whole = path.read_bytes()
    for content in (whole[:-30], b"", whole[:60] + bytes(4000) + whole[4060:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npz: .*Replace it"), opened_own("npz", tmp_path, path):
            pass
    assert zipfile.is_zipfile(path)
