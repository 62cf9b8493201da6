"""A user's own images: layouts, damage, orientation and depth."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_data import origin, split_images

from pipeline.errors import UserError
from pipeline.files import atomic_folder
from pipeline.ingest.normalize import normalize, to_square
from pipeline.ingest.source import Origin
from pipeline.ingest.sources import image_folder

RNG = np.random.default_rng


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
        image_folder.SOURCE.download(Origin(path=path, mirror=None, downloads=raw / "downloads"), temporary)
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
