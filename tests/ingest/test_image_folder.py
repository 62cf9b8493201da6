"""A user's own images: layouts, labels, archives, damage."""

import io
import json
import os
import socket
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_images import all_images
from PIL import Image
from toy_data import origin, split_images

from pipeline.errors import UserError
from pipeline.files import atomic_folder, read_csv
from pipeline.ingest import archives
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.shards import Work
from pipeline.ingest.sources import image_folder


def paint(path: Path, value: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 12), value).save(path, **options)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def tarred(folder: Path, target: Path, mode: str = "w") -> Path:
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, ".")
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


Found = dict[str, dict[int, int]]


def read_folder(tmp_path: Path, path: Path, labels: str = "auto") -> tuple[tuple[str, ...], Found, Counter[str]]:
    """The classes, each split's images as value and label, and how many are left out of each kind."""
    raw, where = tmp_path / "raw", origin(tmp_path, path=path, labels=labels)
    with atomic_folder(raw) as temporary:
        image_folder.SOURCE.download(where, temporary)
    with image_folder.SOURCE.open(raw, where) as dataset:
        assert image_folder.SOURCE.foreseen_classes(where) == dataset.classes
        splits = {
            name: {int(np.asarray(split.decode(i)).max()): int(split.labels[i]) for i in range(len(split.labels))}
            for name, split in dataset.splits.items()
        }
        return dataset.classes, splits, Counter(one.kind for one in dataset.left_out)


def normalized(tmp_path: Path, path: Path, size: int = 8, channels: int = 1, most_bad: float = 0.0) -> dict[str, Any]:
    where = origin(tmp_path, path=path)
    with atomic_folder(tmp_path / "raw") as raw:
        image_folder.SOURCE.download(where, raw)
    with image_folder.SOURCE.open(tmp_path / "raw", where) as dataset:
        return normalize(
            dataset,
            tmp_path / "data",
            tmp_path / "images",
            Normalization(channels=channels, size=size),
            source="image_folder",
            test_fraction=0.25,
            most_bad=most_bad,
            work=Work(folder=tmp_path / "work", identity=""),
        )


EXPECTED = {value: int(value >= 10) for value in range(20)}
PETS = (("cats", "dogs"), {"train": EXPECTED}, Counter())


def test_a_directory_of_class_folders_stays_where_it_is(tmp_path: Path, pets: Path) -> None:
    assert read_folder(tmp_path, pets) == PETS
    first = (tmp_path / "raw" / "images.csv").read_bytes()
    os.utime(pets / "cats" / "00.png", (0, 0))
    read_folder(tmp_path, pets)
    assert (tmp_path / "raw" / "images.csv").read_bytes() == first
    assert sum(path.stat().st_size for path in (tmp_path / "raw").iterdir()) < 8000, "no image is copied"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_with_folders_around_the_classes(tmp_path: Path, pets: Path, kind: str) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    pets.rename(tmp_path / "outer" / "inner" / "pets")
    target = tmp_path / f"pets.{kind}"
    if kind == "zip":
        zipped(tmp_path / "outer", target)
    else:
        tarred(tmp_path / "outer", target, f"w:{kind.partition('.')[2]}")
    assert read_folder(tmp_path, target) == PETS


def test_a_flat_folder_has_one_class(tmp_path: Path) -> None:
    for value in range(5):
        paint(tmp_path / "photos" / f"{value}.jpg", value)
    assert read_folder(tmp_path, tmp_path / "photos") == (
        ("images",), {"train": dict.fromkeys(range(5), 0)}, Counter()
    )  # fmt: skip
    for value in range(5):
        (tmp_path / "photos" / f"{value}.jpg").rename(tmp_path / "photos" / f"{value}.JPEG")
    (tmp_path / "photos" / "test").mkdir()
    (tmp_path / "photos" / "train").mkdir()
    for value in range(5):
        folder = "test" if value > 3 else "train"
        (tmp_path / "photos" / f"{value}.JPEG").rename(tmp_path / "photos" / folder / f"{value}.jpg")
    assert read_folder(tmp_path, tmp_path / "photos") == (
        ("images",), {"train": dict.fromkeys(range(4), 0), "test": {4: 0}}, Counter()
    )  # fmt: skip


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "Validation"])
def test_given_splits(tmp_path: Path, pets: Path, held_out: str) -> None:
    (pets / "train").mkdir()
    for name in ("cats", "dogs"):
        (pets / name).rename(pets / "train" / name)
        paint(pets / held_out / name / "sub" / "x.JPG", 100 if name == "cats" else 200)
    splits = {"train": EXPECTED, "test": {100: 0, 200: 1}}
    assert read_folder(tmp_path, pets) == (("cats", "dogs"), splits, Counter())
    paint(pets / "train" / "fish" / "1.png", 50)  # a class without images in test is a class
    paint(pets / held_out / "owls" / "1.png", 60)  # one that can't be learned is none
    paint(pets / "extra.png", 70)
    classes, splits, left_out = read_folder(tmp_path, pets)
    assert classes == ("cats", "dogs", "fish") and splits["test"] == {100: 0, 200: 1} and splits["train"][50] == 2
    assert left_out == {"its class is in test alone": 1, "beside the folders train and test": 1}


def test_two_domains(tmp_path: Path) -> None:
    for number, name in enumerate(("trainA", "trainB", "testA", "testB")):
        paint(tmp_path / "horse2zebra" / name / "1.jpg", number)
    expected = ("A", "B"), {"train": {0: 0, 1: 1}, "test": {2: 0, 3: 1}}, Counter()
    assert read_folder(tmp_path, tmp_path / "horse2zebra") == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["00000/img00000000.png", 1], ["00000/img00000001.png", 0]], (("0", "1"), {0: 1, 1: 0})),
        ([["00000/img00000000.png", [0, 0, 1]], ["00000/img00000001.png", [1, 0, 0]]], (("0", "1", "2"), {0: 2, 1: 0})),
        (None, (("images",), {0: 0, 1: 0})),
        ("no file", (("images",), {0: 0, 1: 0})),
    ],
)
def test_stylegans_folders_are_no_classes(tmp_path: Path, labels: Any, expected: Any) -> None:
    for value in range(2):
        paint(tmp_path / "set" / "00000" / f"img{value:08}.png", value)
    if labels != "no file":
        (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": labels}))
    archive = zipped(tmp_path / "set", tmp_path / "set.zip")
    classes, splits, left_out = read_folder(tmp_path, archive)
    assert (classes, splits["train"]) == expected and not left_out


def test_tables_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    for value in range(4):
        paint(folder / "all" / f"{value}.png", value)
    (folder / "metadata.csv").write_text(
        "file_name,label,split\nall/0.png,wren,train\nall/1.png,owl,test\nall/2.png,owl,\n"
    )
    classes, splits, left_out = read_folder(tmp_path, folder)
    assert classes == ("owl", "wren") and splits == {"train": {0: 1, 2: 0}, "test": {1: 0}}
    assert left_out == {"not in metadata.csv": 1}
    (folder / "metadata.csv").unlink()
    lines = [{"image": f"{value}.png", "species": value % 2} for value in range(4)]
    (folder / "all" / "birds.jsonl").write_text("\n".join(map(json.dumps, lines)))
    labelled = ("0", "1"), {"train": {0: 0, 1: 1, 2: 0, 3: 1}}, Counter()
    assert read_folder(tmp_path, folder, "birds.jsonl:species") == labelled
    assert read_folder(tmp_path, folder, "none")[0] == ("images",)
    assert read_folder(tmp_path, folder)[0] == ("all",)
    for wrong, message in {
        "bird.jsonl": "has no file 'bird.jsonl'. Did you mean",
        "birds.jsonl": "has the columns image, species; file_name and label or",
        "birds.jsonl:kind": "file_name and kind are needed",
    }.items():
        with pytest.raises(UserError, match=message):
            read_folder(tmp_path, folder, wrong)


def test_several_paths(tmp_path: Path, pets: Path) -> None:
    where = origin(tmp_path, path=pets / "cats", also=[str(pets / "dogs")])
    (tmp_path / "raw").mkdir()
    image_folder.SOURCE.download(where, tmp_path / "raw")
    with image_folder.SOURCE.open(tmp_path / "raw", where) as dataset:
        assert dataset.classes == ("cats", "dogs") == image_folder.SOURCE.foreseen_classes(where)
        assert np.bincount(dataset.splits["train"].labels).tolist() == [10, 10]


def test_linked_class_folders_are_followed_once(tmp_path: Path, pets: Path) -> None:
    (pets / "dogs").rename(tmp_path / "elsewhere")
    (pets / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert read_folder(tmp_path, pets) == PETS


BAD_LAYOUTS = {
    "no images": ["notes.txt"],
    "the images of test/ lie in no class folders, those of train/ do": ["train/cats/1.png", "test/1.png"],
    "the images of train/ lie in no class folders, those of test/ do": ["train/1.png", "test/cats/1.png"],
    "a test split and no train": ["test/cats/1.png", "val/cats/1.png"],
}


@pytest.mark.parametrize("message", BAD_LAYOUTS)
def test_folders_that_contradict_themselves_are_said(tmp_path: Path, message: str) -> None:
    for name in BAD_LAYOUTS[message]:
        paint(tmp_path / "here" / name, 1) if name.endswith(".png") else paint(tmp_path / "here/.x.png", 1)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, tmp_path / "here")
    if "lie in no class" in message:  # the advice holds
        assert read_folder(tmp_path, tmp_path / "here", "none")[0] == ("images",)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    paint(tmp_path / "here" / "plane" / "1.png", 1)
    paint(tmp_path / "here" / "train" / "1.png", 2)
    assert read_folder(tmp_path, tmp_path / "here") == (("plane", "train"), {"train": {1: 0, 2: 1}}, Counter())


def test_bad_paths_and_archives_are_said(tmp_path: Path, pets: Path) -> None:
    archive = zipped(pets, tmp_path / "pets.zip")
    whole = archive.read_bytes()
    with pytest.raises(UserError, match=r"data\.path: there is no"):
        read_folder(tmp_path, tmp_path / "gone")
    archive.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="no images"):
        read_folder(tmp_path, archive)
    start = whole.index(b"cats/05.png") + len("cats/05.png") + 20
    archive.write_bytes(whole[:start] + bytes([whole[start] ^ 0xFF]) + whole[start + 1 :])
    assert read_folder(tmp_path, archive)[2] == {"damaged in the archive": 1}
    packed = tarred(pets, tmp_path / "pets.tar.gz", "w:gz")
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"pets\.tar\.gz: no whole zip or tar archive"):
        read_folder(tmp_path, packed)


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "odd.tar"
    content = io.BytesIO()
    Image.new("L", (8, 8), 3).save(content, "PNG")
    with tarfile.open(target, "w") as archive:
        for name, kind, link in [
            ("a/1.png", tarfile.REGTYPE, ""), ("a/2.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("a/3.png", tarfile.LNKTYPE, "a/1.png"), ("a/4.png", tarfile.CHRTYPE, ""),
            ("a/5.png", tarfile.FIFOTYPE, ""),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content.getvalue()) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content.getvalue()) if kind == tarfile.REGTYPE else None)
    _, splits, left_out = read_folder(tmp_path, target)
    assert splits == {"train": {3: 0}} and left_out == {"link in the archive": 1, "no regular file in the archive": 2}


def test_a_member_larger_than_it_may_be_is_left_out(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (pets / "cats" / "00.png").stat().st_size
    paint(pets / "cats" / "large.png", 50, compress_level=0)
    assert (pets / "cats" / "large.png").stat().st_size > size
    monkeypatch.setattr(archives, "MOST_BYTES", size + 10)
    assert read_folder(tmp_path, zipped(pets, tmp_path / "pets.zip"))[2] == {"too large": 1}


def test_an_image_that_changed_since_it_was_listed_is_no_other_image(tmp_path: Path, pets: Path) -> None:
    where = origin(tmp_path, path=pets)
    (tmp_path / "raw").mkdir()
    image_folder.SOURCE.download(where, tmp_path / "raw")
    paint(pets / "cats" / "00.png", 77)
    with (
        pytest.raises(UserError, match=r"00\.png: has changed since it was listed. Run `dvc repro`"),
        image_folder.SOURCE.open(tmp_path / "raw", where) as dataset,
    ):
        dataset.splits["train"].decode(0)


def test_every_kind_of_image_is_decided_and_none_ends_the_stage(tmp_path: Path) -> None:
    folder, images = tmp_path / "odd", all_images()
    assert len(images) >= 200
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    special = folder / "special"
    special.mkdir()
    os.mkfifo(special / "pipe.png")
    os.mknod(special / "device.png", 0o666 | 0o020000, os.makedev(1, 5)) if os.geteuid() == 0 else None
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(special)  # a socket's path is short
        listener.bind("socket.png")
        (special / "dangling.png").symlink_to("nowhere.png")
        (special / "circle.png").symlink_to("circle.png")
        (special / "folder.png").mkdir()
        (special / "out-of-it.png").symlink_to(folder / "odd" / "one-pixel.png")
        info = normalized(tmp_path, folder, size=16, channels=3, most_bad=0.5)
    left_out = read_csv(tmp_path / "images" / "quarantine.csv")
    used = read_csv(tmp_path / "images" / "images.csv")
    specials = 5 + (os.geteuid() == 0)
    assert len(used) + len(left_out) == len(images) + specials, "each one is here or there"
    assert sum(entry["count"] for entry in info["splits"].values()) == len(used)
    reasons = {row["name"]: row["kind"] for row in left_out}
    assert {name for name in images if name in reasons} == {
        name for name in images if name.startswith(("cut/", "none/"))
    }
    assert reasons["special/pipe.png"] == "named pipe" and reasons["special/socket.png"] == "socket"
    assert reasons["special/dangling.png"] == "link to nothing" and "levels" in reasons["special/circle.png"]
    if os.geteuid() == 0:
        assert reasons["special/device.png"] == "device"
    assert reasons["none/empty.png"] == "empty file" and reasons["none/huge-header.png"] == "too many pixels"
    pixels = {name: split_images(tmp_path / "data", name) for name in ("train", "test")}
    for row in used:
        image = pixels[row["split"]][int(row["number"])].astype(int)
        if row["name"].startswith("film/"):
            assert abs(image - (255, 0, 0)).max() < 8, row  # the first frame
        if row["name"].startswith("exif/"):
            red = image[..., 0] - image[..., 1]  # the red corner is upper left, and the middle is cut out of 24 columns
            assert red[1:6, 0:3].min() > 150 and red[10:].max() < 60, row


def test_too_many_bad_images_are_counted_by_kind(tmp_path: Path, pets: Path) -> None:
    (pets / "cats" / "00.png").write_bytes(b"")
    (pets / "cats" / "01.png").write_bytes((pets / "cats" / "01.png").read_bytes()[:50])
    (pets / "dogs" / "nothing.png").symlink_to("gone")
    with pytest.raises(UserError, match=r"max_bad_fraction: 3 of 21 images can't be used: 1 ") as caught:
        normalized(tmp_path, pets)
    assert not (tmp_path / "data").exists()
    for part in ("1 damaged (cats/01.png)", "1 empty file (cats/00.png)", "1 link to nothing (dogs/nothing.png)"):
        assert part in str(caught.value)
    listed = read_csv(tmp_path / "work" / "quarantine.csv")
    assert [row["name"] for row in listed] == ["cats/00.png", "cats/01.png", "dogs/nothing.png"]
    info = normalized(tmp_path, pets, most_bad=3 / 21)
    assert sum(entry["count"] for entry in info["splits"].values()) == 18


def test_cifar_images_from_a_zip_in_colour(tmp_path: Path, cifar_zip: Path) -> None:
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(cifar_zip) as everything, zipfile.ZipFile(few, "w") as chosen:
        for name in everything.namelist():
            if name.endswith(("000.jpg", "001.jpg", "002.jpg")):
                chosen.writestr(name, everything.read(name))
    info = normalized(tmp_path, few, size=32, channels=3)
    assert info["classes"][0] == "airplane" and info["classes"][-1] == "truck"
    row = next(row for row in read_csv(tmp_path / "images" / "images.csv") if row["split"] == "train")
    with zipfile.ZipFile(few) as archive, archive.open(row["name"]) as file:
        np.testing.assert_array_equal(split_images(tmp_path / "data", "train")[0], np.asarray(Image.open(file)))
    spec = json.loads((tmp_path / "data" / "spec.json").read_text())
    assert spec == info and spec["normalization"] == "crop, antialiased bicubic (Pillow), 32 px, RGB, on white, sRGB"
    np.testing.assert_allclose(spec["mean"], (0.491, 0.482, 0.447), atol=0.06)
