"""The small sets that torchvision reads, from files in their publishers' formats: orientation, labels, channels."""

import bz2
import gzip
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from published import expecting, idx_bytes, images_of, opened, put, tar_bytes, zip_bytes
from torchvision.datasets import CIFAR100, EMNIST, KMNIST, QMNIST, SVHN, USPS

from pipeline.errors import UserError
from pipeline.ingest import sources

RNG = np.random.default_rng


def some(seed: int, *shape: int) -> NDArray[np.uint8]:
    return RNG(seed).integers(0, 256, shape, dtype=np.uint8)


def packed(array: NDArray[Any]) -> bytes:
    return gzip.compress(idx_bytes(array))


def test_kmnist(tmp_path: Path) -> None:
    images, labels = {"train": some(0, 5, 28, 28), "t10k": some(1, 3, 28, 28)}, np.uint8([4, 0, 9, 1, 1])
    files = {f"{part}-images-idx3-ubyte.gz": packed(array) for part, array in images.items()}
    files |= {f"{part}-labels-idx1-ubyte.gz": packed(labels[: len(array)]) for part, array in images.items()}
    folder = put(tmp_path / "mirror", files)
    with opened(expecting(sources.find("kmnist"), folder), tmp_path, folder) as dataset:
        for split, part in (("train", "train"), ("test", "t10k")):
            np.testing.assert_array_equal(images_of(dataset.splits[split]), images[part])
            assert dataset.splits[split].labels.tolist() == labels[: len(images[part])].tolist()
        assert dataset.classes == tuple(KMNIST.classes)


def emnist_files(selection: str, labels: NDArray[np.uint8], images: NDArray[np.uint8]) -> dict[str, bytes]:
    """The archive with one selection's files, each image transposed as the publisher has it, and another's damaged."""
    turned = images.transpose(0, 2, 1)
    members = {f"gzip/emnist-other-{part}-images-idx3-ubyte.gz": b"no gzip" for part in ("train", "test")}
    for part in ("train", "test"):
        members[f"gzip/emnist-{selection}-{part}-images-idx3-ubyte.gz"] = packed(np.ascontiguousarray(turned))
        members[f"gzip/emnist-{selection}-{part}-labels-idx1-ubyte.gz"] = packed(labels)
        members[f"gzip/emnist-{selection}-mapping.txt"] = b"0 48"
    return {"gzip.zip": zip_bytes(members)}


@pytest.mark.parametrize("selection", EMNIST.splits)
def test_emnist_is_upright_and_its_labels_begin_at_0(tmp_path: Path, selection: str) -> None:
    source = sources.find(f"emnist_{selection}")
    first = 1 if selection == "letters" else 0
    last = len(EMNIST.classes_split_dict[selection]) - 1
    images = some(0, 3, 28, 28)
    folder = put(tmp_path / "mirror", emnist_files(selection, np.uint8([first, last, first]), images))
    with opened(expecting(source, folder), tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["test"]), images)
        assert dataset.splits["train"].labels.tolist() == [0, last - first, 0]
        assert len(dataset.classes) == last - first + 1 == len(source.classes)
        assert (dataset.classes[0], dataset.classes[-1]) == (
            ("a", "z") if selection == "letters" else ("0", EMNIST.classes_split_dict[selection][-1])
        )
    kept = {path.name for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    assert len(kept) == 4 and all(name.startswith(f"emnist-{selection}-") for name in kept)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "mirror", emnist_files("letters", np.uint8([0, 1, 26]), some(0, 3, 28, 28)))
    source = expecting(sources.find("emnist_letters"), folder)
    with (
        pytest.raises(UserError, match="labels that are not in 0 to 25"),
        opened(source, tmp_path, folder),
    ):
        pass


def test_qmnist_has_the_digit_first_of_eight_numbers(tmp_path: Path) -> None:
    images = {"train": some(0, 4, 28, 28), "test": some(1, 2, 28, 28)}
    rows = RNG(2).integers(0, 4000, (4, 8), dtype=np.int32)
    rows[:, 0] = [7, 0, 9, 3]
    files = {f"qmnist-{part}-images-idx3-ubyte.gz": packed(array) for part, array in images.items()}
    files |= {f"qmnist-{part}-labels-idx2-int.gz": packed(rows[: len(array)]) for part, array in images.items()}
    folder = put(tmp_path / "mirror", files)
    with opened(expecting(sources.find("qmnist"), folder), tmp_path, folder) as dataset:
        for split, expected in images.items():
            np.testing.assert_array_equal(images_of(dataset.splits[split]), expected)
        assert dataset.splits["train"].labels.tolist() == [7, 0, 9, 3]
    assert {Path(url).name for split in ("train", "test") for url, _ in QMNIST.resources[split]} == set(files)


def test_usps_is_libsvm_text_with_labels_from_1(tmp_path: Path) -> None:
    shades = np.linspace(-1, 1, 256)
    line = " ".join(f"{index}:{value:.4f}" for index, value in enumerate(shades, start=1))
    text = f"1 {line}\n10 {line}\n".encode()
    folder = put(tmp_path / "mirror", {"usps.bz2": bz2.compress(text), "usps.t.bz2": bz2.compress(text)})
    with opened(expecting(sources.find("usps"), folder), tmp_path, folder) as dataset:
        train = dataset.splits["train"]
        assert train.labels.tolist() == [0, 9]
        image = images_of(train)[0]
        assert image.shape == (16, 16) and image.dtype == np.uint8
        assert image[0, 0] == 0 and image[15, 15] == 255 and (np.diff(image.ravel().astype(int)) >= 0).all()
    assert {name for _, name, _ in USPS.split_list.values()} == {"usps.bz2", "usps.t.bz2"}


def test_svhn_has_images_last_and_10_for_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, files, parts = some(0, 3, 32, 32, 3), {}, dict(SVHN.split_list)
    for split in ("train", "test"):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"X": images.transpose(1, 2, 3, 0), "y": np.uint8([[1], [10], [9]])})
        files[f"{split}_32x32.mat"] = buffer.getvalue()
        parts[split] = [*SVHN.split_list[split][:2], hashlib.md5(buffer.getvalue()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", parts)
    folder = put(tmp_path / "mirror", files)
    with opened(expecting(sources.find("svhn"), folder), tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["test"]), images)
        assert dataset.splits["train"].labels.tolist() == [1, 0, 9]


def test_cifar100_has_fine_labels_and_planar_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = some(0, 2, 32, 32, 3)
    batch = {"data": images.transpose(0, 3, 1, 2).reshape(2, -1), "fine_labels": [99, 4], "coarse_labels": [1, 2]}
    names = [f"class {number}" for number in range(100)]
    members = {
        "train": pickle.dumps(batch, protocol=2),
        "test": pickle.dumps(batch, protocol=2),
        "meta": pickle.dumps({"fine_label_names": names, "coarse_label_names": ["a"]}, protocol=2),
    }
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    archive = tar_bytes({f"cifar-100-python/{name}": content for name, content in members.items()}, "w:gz")
    folder = put(tmp_path / "mirror", {CIFAR100.filename: archive})
    with opened(expecting(sources.find("cifar100"), folder), tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), images)
        assert dataset.splits["test"].labels.tolist() == [99, 4] and dataset.classes == tuple(names)
