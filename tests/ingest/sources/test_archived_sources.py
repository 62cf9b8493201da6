"""Published sets of large archives, from small ones in their publishers' layouts: read in place, decoded right."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from published import as_file, expecting, images_of, jpeg, opened, picture, put, shades, tar_bytes, zip_bytes
from torchvision.datasets import CelebA, Flowers102, Imagenette, Places365
from toy_data import origin

from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.source import UNLABELED, UnreadableError


def mat(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays)
    return buffer.getvalue()


def food(tmp_path: Path) -> tuple[Any, Path]:
    lists = {"train": {"pizza": ["pizza/1", "pizza/2"], "apple_pie": ["apple_pie/3"]}}
    lists |= {"test": {"apple_pie": ["apple_pie/4"], "pizza": ["pizza/5"]}}
    members = {f"food-101/meta/{split}.json": json.dumps(names).encode() for split, names in lists.items()}
    members |= {
        f"food-101/images/{name}/{number}.jpg": jpeg(40 * number)
        for number, name in enumerate(["pizza", "pizza", "apple_pie", "apple_pie", "pizza"], start=1)
    }
    folder = put(tmp_path / "mirror", {"food-101.tar.gz": tar_bytes(members, "w:gz")})
    return expecting(sources.find("food101"), folder), folder


def test_food101(tmp_path: Path) -> None:
    source, folder = food(tmp_path)
    with opened(source, tmp_path, folder) as dataset:
        assert dataset.classes == ("apple_pie", "pizza")
        assert shades(dataset.splits["train"]) == {40: 1, 80: 1, 120: 0}
        assert shades(dataset.splits["test"]) == {160: 0, 200: 1}
        names = dataset.splits["train"].names
        assert names is not None and sorted(names)[0] == "food-101/images/apple_pie/3.jpg"


def test_a_large_archive_is_decompressed_once_and_copied_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = food(tmp_path)
    for _ in range(2):
        with opened(source, tmp_path, folder.as_uri()):  # type: ignore[arg-type]
            pass
        assert [path.name for path in (tmp_path / "raw").iterdir()] == ["files.json"]
        (tar,) = (tmp_path / "downloads").glob("*.tar")
        (folder / "food-101.tar.gz").unlink(missing_ok=True)  # the second time it is not asked for
    moved = tar.with_name("moved")
    tar.rename(moved)
    with (
        pytest.raises(UserError, match=r"data\.mirror: .* has no file 'food-101\.tar\.gz'"),
        source.open(tmp_path / "raw", origin(tmp_path, folder)),
    ):
        pass
    moved.rename(tar)
    with source.open(tmp_path / "raw", origin(tmp_path)) as dataset:
        assert len(dataset.splits["train"].labels) == 3


def test_a_compressed_download_makes_room_for_its_tar(tmp_path: Path) -> None:
    from pipeline.ingest import archived_dataset

    source, folder = food(tmp_path)
    (file,) = source.files
    downloaded = put(tmp_path / "downloads", {"x-food-101.tar.gz": (folder / file.name).read_bytes()})
    tar = archived_dataset._unpacked(file, downloaded / "x-food-101.tar.gz", origin(tmp_path))
    assert tar.is_file() and not (downloaded / "x-food-101.tar.gz").exists()
    assert archived_dataset._unpacked(file, folder / file.name, origin(tmp_path)) == tar
    assert (folder / file.name).exists()  # a mirror's own file stays


def test_another_sources_raw_files_are_refused(tmp_path: Path) -> None:
    source, folder = food(tmp_path)
    with opened(source, tmp_path, folder):
        pass
    with (
        pytest.raises(UserError, match="not this source's files"),
        sources.find("imagenette").open(tmp_path / "raw", origin(tmp_path, folder)),
    ):
        pass


def test_an_image_that_the_archive_lacks_is_named(tmp_path: Path) -> None:
    lists = {"train": {"pizza": ["pizza/1"]}, "test": {"pizza": ["pizza/2"]}}
    members = {f"food-101/meta/{split}.json": json.dumps(names).encode() for split, names in lists.items()}
    members["food-101/images/pizza/1.jpg"] = jpeg(10)
    folder = put(tmp_path / "mirror", {"food-101.tar.gz": tar_bytes(members, "w:gz")})
    with (
        pytest.raises(UserError, match=r"no member food-101/images/pizza/2\.jpg"),
        opened(expecting(sources.find("food101"), folder), tmp_path, folder),
    ):
        pass


def test_a_damaged_image_is_left_to_quarantine(tmp_path: Path) -> None:
    members = {f"food-101/meta/{split}.json": json.dumps({"a": ["a/1"]}).encode() for split in ("train", "test")}
    members["food-101/images/a/1.jpg"] = jpeg(10)[:100]
    folder = put(tmp_path / "mirror", {"food-101.tar.gz": tar_bytes(members, "w:gz")})
    with opened(expecting(sources.find("food101"), folder), tmp_path, folder) as dataset:
        with pytest.raises(UnreadableError, match="damaged"):
            dataset.splits["train"].decode(0)
        assert dataset.splits["train"].name(0) == "food-101/images/a/1.jpg"


def test_flowers_have_labels_from_1_and_three_lists(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "mirror",
        {
            "102flowers.tgz": tar_bytes({f"jpg/image_{n:05d}.jpg": jpeg(50 * n) for n in (1, 2, 3, 4)}, "w:gz"),
            "imagelabels.mat": mat(labels=np.uint8([[77, 1, 102, 5]])),
            "setid.mat": mat(trnid=np.uint16([[2]]), valid=np.uint16([[4]]), tstid=np.uint16([[1, 3]])),
        },
    )
    with opened(expecting(sources.find("flowers102"), folder), tmp_path, folder) as dataset:
        assert shades(dataset.splits["train"]) == {100: 0, 200: 4}
        assert shades(dataset.splits["test"]) == {50: 76, 150: 101}
        assert dataset.classes == tuple(Flowers102.classes) and dataset.classes[76] == "passion flower"


def test_pets_take_the_breed_from_the_name(tmp_path: Path) -> None:
    images = {"images/Abyssinian_100.jpg": jpeg(50), "images/._Abyssinian_100.jpg": b"\x00"}
    images |= {"images/great_pyrenees_7.jpg": as_file(picture(1), "PNG"), "images/Abyssinian_100.mat": b"?"}
    lists = {"annotations/trainval.txt": b"Abyssinian_100 1 1 1\ngreat_pyrenees_7 2 2 1\n"}
    lists |= {"annotations/test.txt": b"Abyssinian_100 1 1 1\n"}
    folder = put(
        tmp_path / "mirror",
        {"images.tar.gz": tar_bytes(images, "w:gz"), "annotations.tar.gz": tar_bytes(lists, "w:gz")},
    )
    with opened(expecting(sources.find("oxford_pets"), folder), tmp_path, folder) as dataset:
        assert dataset.classes == ("Abyssinian", "Great Pyrenees")
        train = dataset.splits["train"]
        (number,) = np.flatnonzero(train.labels == 1)
        np.testing.assert_array_equal(np.asarray(train.decode(int(number))), picture(1))


@pytest.mark.parametrize(("name", "size"), [("imagenette", "full"), ("imagenette_320", "320px")])
def test_imagenette(tmp_path: Path, name: str, size: str) -> None:
    url = Imagenette._ARCHIVES[size][0]
    top = Path(url).stem
    members = {f"{top}/train/n01440764/n01440764_1.JPEG": jpeg(30), f"{top}/val/n03888257/n03888257_2.JPEG": jpeg(90)}
    members |= {f"{top}/train/n01440764/._n01440764_1.JPEG": b"\x00", f"{top}/noisy.csv": b"path"}
    members |= {f"{top}/train/n03888257/n03888257_3.JPEG": jpeg(200)}
    folder = put(tmp_path / "mirror", {Path(url).name: tar_bytes(members, "w:gz")})
    with opened(expecting(sources.find(name), folder), tmp_path, folder) as dataset:
        assert shades(dataset.splits["train"]) == {30: 0, 200: 9} and shades(dataset.splits["test"]) == {90: 9}
        assert dataset.classes[0] == "tench" and dataset.classes[9] == "parachute"


def test_places365_takes_labels_from_its_lists(tmp_path: Path) -> None:
    lists = {
        "categories_places365.txt": b"/a/airfield 0\n/b/bakery/shop 1\n",
        "places365_train_standard.txt": b"/a/airfield/00000001.jpg 0\n/b/bakery/shop/00000001.jpg 1\n",
        "places365_val.txt": b"Places365_val_00000001.jpg 1\n",
    }
    train = {"data_256/a/airfield/00000001.jpg": jpeg(50), "data_256/b/bakery/shop/00000001.jpg": jpeg(150)}
    folder = put(
        tmp_path / "mirror",
        {
            "filelist_places365-standard.tar": tar_bytes(lists),
            "train_256_places365standard.tar": tar_bytes(train),
            "val_256.tar": tar_bytes({"val_256/Places365_val_00000001.jpg": jpeg(100)}),
        },
    )
    with opened(expecting(sources.find("places365"), folder), tmp_path, folder) as dataset:
        assert shades(dataset.splits["train"]) == {50: 0, 150: 1} and shades(dataset.splits["test"]) == {100: 1}
        assert dataset.classes == ("airfield", "bakery/shop")
    assert not list((tmp_path / "downloads").glob("*.tar"))  # they are read in the mirror's folder
    assert all(
        name.startswith("http://data.csail.mit.edu") for file in sources.find("places365").files for name in file.urls
    )
    assert Places365._BASE_URL.endswith("/")


def test_imagenet_is_a_tar_of_tars_in_the_order_of_wordnet(tmp_path: Path) -> None:
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [(1, "n02", "crane", "a bird", 0), (2, "n01", "tench, Tinca tinca", "a fish", 0), (3, "n00", "x", "y", 2)]
    synsets = np.array(rows, dtype=kinds)
    folder = "ILSVRC2012_devkit_t12/data"
    devkit = {f"{folder}/meta.mat": mat(synsets=synsets), f"{folder}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n"}
    train = {"n01.tar": tar_bytes({"n01_10.JPEG": jpeg(40)}), "n02.tar": tar_bytes({"n02_7.JPEG": jpeg(80)})}
    val = {f"ILSVRC2012_val_0000000{n}.JPEG": jpeg(100 * n) for n in (2, 1)}
    mirror = put(
        tmp_path / "mirror",
        {
            "ILSVRC2012_img_train.tar": tar_bytes(train),
            "ILSVRC2012_img_val.tar": tar_bytes(val),
            "ILSVRC2012_devkit_t12.tar.gz": tar_bytes(devkit, "w:gz"),
        },
    )
    with opened(expecting(sources.find("imagenet"), mirror), tmp_path, mirror) as dataset:
        assert dataset.classes == ("tench (n01)", "crane (n02)")
        assert shades(dataset.splits["train"]) == {40: 0, 80: 1}
        assert shades(dataset.splits["test"]) == {100: 0, 200: 1}


def celeba(tmp_path: Path) -> tuple[Any, Path]:
    names = [f"00000{number}.jpg" for number in range(1, 5)]
    attributes = "4\nMale Smiling\n" + "".join(
        f"{name} {a:2d} {b:2d}\n" for name, a, b in zip(names, (-1, 1, -1, 1), (-1, -1, 1, 1), strict=True)
    )
    files = {
        "img_align_celeba.zip": zip_bytes(
            {f"img_align_celeba/{name}": jpeg(50 * (n + 1)) for n, name in enumerate(names)}
        ),
        "list_attr_celeba.txt": attributes.encode(),
        "identity_CelebA.txt": "".join(f"{name} {n}\n" for name, n in zip(names, (3, 1, 3, 2), strict=True)).encode(),
        "list_eval_partition.txt": "".join(f"{name} {n}\n" for name, n in zip(names, "0012", strict=True)).encode(),
    }
    folder = put(tmp_path / "mirror", files)
    return expecting(sources.find("celeba"), folder), folder


@pytest.mark.parametrize(
    ("labels", "classes", "train", "test"),
    [
        ("auto", (UNLABELED,), {50: 0, 100: 0, 150: 0}, {200: 0}),
        ("none", (UNLABELED,), {50: 0, 100: 0, 150: 0}, {200: 0}),
        ("Male", ("not_Male", "Male"), {50: 0, 100: 1, 150: 0}, {200: 1}),
        ("identity", ("1", "2", "3"), {50: 2, 100: 0, 150: 2}, {200: 1}),
        (
            "Male+Smiling",
            ("not_Male+not_Smiling", "not_Male+Smiling", "Male+not_Smiling", "Male+Smiling"),
            {50: 0, 100: 2, 150: 1},
            {200: 3},
        ),
    ],
)
def test_celeba_by_attributes_and_people(
    tmp_path: Path, labels: str, classes: tuple[str, ...], train: dict[int, int], test: dict[int, int]
) -> None:
    source, folder = celeba(tmp_path)
    with opened(source, tmp_path, folder, labels) as dataset:
        assert dataset.classes == classes
        assert shades(dataset.splits["train"]) == train and shades(dataset.splits["test"]) == test


def test_celeba_corrects_a_misspelt_attribute(tmp_path: Path) -> None:
    source, folder = celeba(tmp_path)
    with (
        pytest.raises(UserError, match=r"data\.labels: CelebA has no 'Smilin'\. Did you mean 'Smiling'\?"),
        opened(source, tmp_path, folder, "Smilin"),
    ):
        pass


@pytest.mark.parametrize(("name", "site"), [("celeba", "mmlab.ie.cuhk.edu.hk"), ("imagenet", "image-net.org")])
def test_what_needs_a_person_says_what_to_put_where(tmp_path: Path, name: str, site: str) -> None:
    source = sources.find(name)
    with pytest.raises(UserError, match=rf"{site}.* into a folder, and set data\.mirror to that folder") as caught:
        source.download(origin(tmp_path), tmp_path)
    assert all(file.name in str(caught.value) for file in source.files)


def test_celeba_wants_torchvisions_hashes() -> None:
    known = {name: md5 for _, md5, name in CelebA.file_list}
    assert {file.name: file.digest for file in sources.find("celeba").files} == {
        file.name: f"md5:{known[file.name]}" for file in sources.find("celeba").files
    }


def stl(tmp_path: Path) -> tuple[Path, Any]:
    pictures = np.stack([picture(seed, (96, 96)) for seed in range(5)])  # (n, h, w, c)
    columns_first = pictures.transpose(0, 3, 2, 1)
    members = {
        "stl10_binary/class_names.txt": b"airplane\nbird\n",
        "stl10_binary/train_X.bin": columns_first[:2].tobytes(),
        "stl10_binary/train_y.bin": bytes([2, 1]),
        "stl10_binary/test_X.bin": columns_first[2:3].tobytes(),
        "stl10_binary/test_y.bin": bytes([2]),
        "stl10_binary/unlabeled_X.bin": columns_first[3:].tobytes(),
    }
    return put(tmp_path / "mirror", {"stl10_binary.tar.gz": tar_bytes(members, "w:gz")}), pictures


def test_stl10_has_columns_first_and_labels_from_1(tmp_path: Path) -> None:
    folder, pictures = stl(tmp_path)
    with opened(expecting(sources.find("stl10"), folder), tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), pictures[:2])
        np.testing.assert_array_equal(images_of(dataset.splits["test"]), pictures[2:3])
        assert dataset.splits["train"].labels.tolist() == [1, 0] and dataset.classes == ("airplane", "bird")
    with opened(expecting(sources.find("stl10_unlabeled"), folder), tmp_path, folder) as dataset:
        np.testing.assert_array_equal(images_of(dataset.splits["train"]), pictures[3:])
        assert dataset.splits["train"].labels.tolist() == [0, 0] and set(dataset.splits) == {"train"}


def test_a_set_of_two_domains(tmp_path: Path) -> None:
    names = {"trainA/1.jpg": 20, "trainA/2.jpg": 60, "trainB/1.jpg": 100, "testA/3.jpg": 140, "testB/3.jpg": 180}
    members = {f"horse2zebra/{name}": jpeg(shade) for name, shade in names.items()} | {
        "horse2zebra/trainA/._1.jpg": b"\x00"
    }
    folder = put(tmp_path / "mirror", {"horse2zebra.zip": zip_bytes(members)})
    with opened(expecting(sources.find("horse2zebra"), folder), tmp_path, folder) as dataset:
        assert dataset.classes == ("horse", "zebra")
        assert shades(dataset.splits["train"]) == {20: 0, 60: 0, 100: 1}
        assert shades(dataset.splits["test"]) == {140: 0, 180: 1}


def test_an_archive_without_the_folders_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "mirror", {"horse2zebra.zip": zip_bytes({"horse2zebra/other/1.jpg": jpeg(1)})})
    with (
        pytest.raises(UserError, match="not this source's files"),
        opened(expecting(sources.find("horse2zebra"), folder), tmp_path, folder),
    ):
        pass
