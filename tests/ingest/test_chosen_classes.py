"""data.classes: the images of the chosen classes are those of the whole data, and nothing else counts."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_data import origin, split_images

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.ingest.normalize import Normalization, normalize, with_test_split
from pipeline.ingest.shards import Work, make_shards
from pipeline.ingest.source import LeftOut, RawDataset, RawSplit, Source
from pipeline.ingest.sources.cifar10 import SOURCE as CIFAR10
from pipeline.ingest.sources.image_folder import SOURCE as IMAGE_FOLDER
from pipeline.ingest.sources.paired import SOURCE as PAIRED
from pipeline.ingest.sources.unpaired import SOURCE as UNPAIRED
from pipeline.render.inspection import PAGE, inspect

CLASSES = ("ant", "bee", "cow", "dog")
NORMALIZATION = Normalization(channels=1, size=8)
RNG = np.random.default_rng


def published(count: int = 40, splits: Sequence[str] = ("train", "test"), **changes: Any) -> RawDataset:
    """Images of random pixels, as many of each class, mixed."""

    def split(seed: int) -> RawSplit:
        images = RNG(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        labels = RNG(seed).permutation(np.arange(count) % len(CLASSES))
        return RawSplit(labels=labels, decode=lambda number: Image.fromarray(images[number]))

    return RawDataset(classes=CLASSES, splits={name: split(seed) for seed, name in enumerate(splits)}, **changes)


def own(folder: Path, count: int = 40) -> Path:
    for number in range(count):
        path = folder / CLASSES[number % len(CLASSES)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG(number).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return folder


def pixels(split: RawSplit, names: Sequence[str], classes: Sequence[str]) -> dict[str, list[bytes]]:
    """The images of each class, in order."""
    return {
        name: [split.decode(int(number)).tobytes() for number in np.flatnonzero(split.labels == classes.index(name))]
        for name in names
    }


def order(split: RawSplit, names: Sequence[str], classes: Sequence[str]) -> list[bytes]:
    """The images of some classes, in order."""
    labels = [classes.index(name) for name in names if name in classes]
    return [split.decode(int(number)).tobytes() for number in np.flatnonzero(np.isin(split.labels, labels))]


def opened(source: Source, tmp_path: Path, *paths: Path) -> Any:
    where = origin(tmp_path, path=paths[0], also=[str(path) for path in paths[1:]])
    raw = tmp_path / "raw"
    raw.mkdir()
    source.download(where, raw)
    return source.open(raw, where)


def made(folder: Path, raw: RawDataset, most_bad: float = 0.0) -> dict[str, Any]:
    work = Work(folder=folder / "work", identity="")
    return normalize(
        raw, folder / "data", folder / "images", NORMALIZATION,
        source="toy", test_fraction=0.25, most_bad=most_bad, work=work,
    )  # fmt: skip


# The same images


@pytest.mark.parametrize("chosen", [("bee", "dog"), ("dog", "bee"), ("cow",), ("dog", "cow", "bee", "ant")])
def test_the_images_of_the_chosen_are_those_of_the_whole_in_its_order(chosen: tuple[str, ...]) -> None:
    whole = published()
    some = whole.of_classes(chosen)
    assert some.classes == chosen and some.chosen_of == 4
    for name, split in some.splits.items():
        all_of = whole.splits[name]
        assert order(split, chosen, chosen) == order(all_of, chosen, CLASSES)
        assert pixels(split, chosen, chosen) == pixels(all_of, chosen, CLASSES)
        assert len(split.labels) == 10 * len(chosen) and set(split.labels) == set(range(len(chosen)))
        assert split.labels.dtype == np.int64


def test_all_in_their_order_are_the_same_as_none_chosen() -> None:
    whole = published()
    assert whole.of_classes(None) is whole
    assert whole.of_classes(CLASSES) == whole


def test_a_split_of_own_images_is_the_wholes(tmp_path: Path) -> None:
    with opened(IMAGE_FOLDER, tmp_path, own(tmp_path / "photos", 200)) as whole:
        all_of, some = with_test_split(whole, 0.25), with_test_split(whole.of_classes(("dog", "ant")), 0.25)
        for name in ("train", "test"):
            assert pixels(some[name], ("ant", "dog"), ("dog", "ant")) == pixels(all_of[name], ("ant", "dog"), CLASSES)
            assert order(some[name], ("ant", "dog"), ("dog", "ant")) == order(all_of[name], ("ant", "dog"), CLASSES)


def test_a_split_that_is_held_out_of_published_ones_has_a_share_of_each_class() -> None:
    whole = published(splits=["train"])
    some = with_test_split(whole.of_classes(("cow", "bee")), 0.2)
    assert np.bincount(some["train"].labels).tolist() == [8, 8] and np.bincount(some["test"].labels).tolist() == [2, 2]
    both = [image for split in some.values() for image in order(split, ("bee", "cow"), ("cow", "bee"))]
    assert sorted(both) == sorted(order(whole.splits["train"], ("bee", "cow"), CLASSES))


def test_the_written_dataset_has_the_choice(tmp_path: Path) -> None:
    for name, chosen in {"whole": None, "some": ("dog", "bee")}.items():
        made(tmp_path / name, published().of_classes(chosen))
    whole, some = (open_dataset(tmp_path / name / "data") for name in ("whole", "some"))
    assert some.spec == ImageSpec(channels=1, size=8, classes=2)
    assert some.info["classes"] == ["dog", "bee"] and some.info["chosen_of"] == 4 and "chosen_of" not in whole.info
    for split in ("train", "test"):
        images = split_images(tmp_path / "whole/data", split)
        kept = np.isin(whole.splits[split].labels, [1, 3])
        np.testing.assert_array_equal(split_images(tmp_path / "some/data", split), images[kept])
        expected = np.where(whole.splits[split].labels[kept] == 3, 0, 1)
        np.testing.assert_array_equal(some.splits[split].labels, expected)
        assert some.info["splits"][split]["class_counts"] == [10, 10]
    assert some.of_class("dog").splits["train"].labels.tolist() == [0] * 10


def test_the_page_of_the_images_has_the_choice(tmp_path: Path) -> None:
    for chosen, said in {None: "<dd>4</dd>", ("dog", "bee"): "<dd>2 of 4, chosen by data.classes</dd>"}.items():
        made(tmp_path, published().of_classes(chosen))
        inspect(tmp_path / "data", tmp_path / "images", tmp_path / "inspection")
        assert f"<dt>classes</dt>{said}" in (tmp_path / "inspection" / PAGE).read_text()


def test_two_classes_of_real_photographs(tmp_path: Path, cifar_zip: Path) -> None:
    """Thirty images of each class and split, in a zip of their own."""
    with zipfile.ZipFile(cifar_zip) as every, zipfile.ZipFile(tmp_path / "some.zip", "w") as few:
        kept: dict[str, int] = {}
        for name in sorted(every.namelist()):
            folder = name.rpartition("/")[0]
            if name.endswith(".jpg") and (count := kept.get(folder, 0)) < 30:
                few.writestr(name, every.read(name))
                kept[folder] = count + 1
    chosen = ("ship", "automobile")
    with opened(IMAGE_FOLDER, tmp_path, tmp_path / "some.zip") as whole:
        assert whole.classes == CIFAR10.classes, "the names that are known before the download are the published ones"
        made(tmp_path / "whole", whole)
        made(tmp_path / "some", whole.of_classes(chosen))
    all_of, some = (open_dataset(tmp_path / name / "data") for name in ("whole", "some"))
    for split in ("train", "test"):
        assert len(some.splits[split]) == 60
        for label, name in enumerate(chosen):
            left, right = (data.of_class(name).splits[split] for data in (some, all_of))
            assert set(left.labels) == {label}
            np.testing.assert_array_equal(left.images(range(30)), right.images(range(30)))


# Shards


def test_shards_of_other_classes_are_not_taken_for_the_chosen_ones(tmp_path: Path) -> None:
    """They have as many images under the same numbers."""
    work, spec = Work(folder=tmp_path, identity="x"), ImageSpec(channels=1, size=8, classes=2)
    found: dict[tuple[str, ...] | None, list[str]] = {}
    for chosen in (("ant", "bee"), ("cow", "dog"), ("bee", "ant"), None):
        raw = published().of_classes(chosen)
        shards = make_shards(raw.splits, NORMALIZATION, spec, work, lambda *_: None)
        for name, split in raw.splits.items():
            pixels = np.concatenate([np.load(file) for file in shards[name].files])
            expected = [np.asarray(split.decode(number))[..., None] for number in range(len(split.labels))]
            np.testing.assert_array_equal(pixels, expected)
        found[chosen] = [file.name for split in shards.values() for file in split.files]
    assert found["ant", "bee"] == found["bee", "ant"], "the same images, whatever their labels"
    names = {name for shards in found.values() for name in shards}
    assert len(names) == 6, "two splits of three choices"


def test_what_is_held_out_of_other_classes_is_not_taken_for_that_of_the_chosen_ones(tmp_path: Path) -> None:
    """Of classes that come in turn the same numbers among the chosen images are held out."""
    whole = published(splits=["train"])
    in_turn = replace(whole.splits["train"], labels=np.arange(40) % 4)
    whole, names = replace(whole, splits={"train": in_turn}), list[str]()
    spec = ImageSpec(channels=1, size=8, classes=2)
    for chosen in (("ant", "bee"), ("cow", "dog")):
        splits = with_test_split(whole.of_classes(chosen), 0.2)
        shards = make_shards(splits, NORMALIZATION, spec, Work(folder=tmp_path, identity=""), lambda *_: None)
        names += [file.name for split in shards.values() for file in split.files]
    assert len(set(names)) == 4


def test_shards_of_own_images_are_named_by_them_whatever_was_chosen(tmp_path: Path) -> None:
    spec, work = ImageSpec(channels=1, size=8, classes=1), Work(folder=tmp_path / "shards", identity="")
    with opened(IMAGE_FOLDER, tmp_path, own(tmp_path / "photos")) as whole:
        ants = whole.of_classes(("ant",)).splits["train"]
        same = RawSplit(labels=ants.labels, decode=ants.decode, names=ants.names, digests=ants.digests)
        first, second = (
            make_shards({"train": split}, NORMALIZATION, spec, work, lambda *_: None)["train"] for split in (ants, same)
        )
        other = whole.of_classes(("bee",)).splits
        third = make_shards(other, NORMALIZATION, spec, work, lambda *_: None)["train"]
    assert first.files == second.files and not set(first.files) & set(third.files)


# What is wrong


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("bea", "ant"), "there is no class 'bea'. Did you mean 'bee'? Known: ant, bee, cow, dog."),
        (("7",), "there is no class '7'. Known: ant, bee, cow, dog."),
        (("bea", "dgo"), "there is no class 'dgo'. Did you mean 'dog'?"),
    ],
)
def test_an_unknown_class_is_named_with_those_that_there_are(chosen: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        published().of_classes(chosen)
    assert any(line.startswith(f"params.yaml: data.classes: {said}") for line in caught.value.problems)
    assert len(caught.value.problems) == sum(name not in CLASSES for name in chosen)


def test_of_many_classes_a_message_lists_some() -> None:
    many = replace(published(), classes=tuple(f"class {number}" for number in range(1000)))
    with pytest.raises(UserError, match=r"Did you mean 'class 77'\? Known: class 0, .* and 980 more\.$"):
        many.of_classes(("klass 77",))


def test_images_without_classes_have_none_to_choose(tmp_path: Path) -> None:
    flat = tmp_path / "photos"
    flat.mkdir()
    for number in range(3):
        Image.new("L", (8, 8), number).save(flat / f"{number}.png")
    with opened(IMAGE_FOLDER, tmp_path, flat) as raw:
        with pytest.raises(UserError, match=r"data\.classes: the images have no classes, so there is no 'cats'"):
            raw.of_classes(("cats",))
        assert raw.of_classes(("images",)) == raw


def test_a_name_of_two_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.classes: 2 classes are called 'ant'\. Give"):
        replace(published(), classes=("ant", "ant", "cow", "dog")).of_classes(("ant",))


def without(split: RawSplit, label: int) -> RawSplit:
    return split.take(np.flatnonzero(split.labels != label))


def test_a_class_without_training_images_is_refused() -> None:
    whole = published()
    lacking = replace(whole, splits=whole.splits | {"train": without(whole.splits["train"], 2)})
    with pytest.raises(UserError, match=r"data\.classes: 'cow' has no image to train on"):
        lacking.of_classes(("ant", "cow"))
    assert len(lacking.of_classes(("ant", "bee")).splits["train"].labels) == 20


def test_a_test_split_without_the_chosen_is_held_out_anew(caplog: pytest.LogCaptureFixture) -> None:
    whole = published()
    lacking = replace(whole, splits=whole.splits | {"test": without(whole.splits["test"], 2)})
    cows = lacking.of_classes(("cow",))
    assert set(cows.splits) == {"train"}
    assert "The test split has no image of cow: a test split is held out of train." in caplog.text
    held = with_test_split(cows, 0.2)
    assert [len(held[name].labels) for name in ("train", "test")] == [8, 2]
    caplog.clear()
    both = lacking.of_classes(("cow", "ant"))
    assert set(both.splits["test"].labels) == {1}
    assert "no image of cow: its measures say nothing of them" in caplog.text


# What is left out


def test_what_is_left_out_of_other_classes_counts_for_nothing(tmp_path: Path) -> None:
    photos = own(tmp_path / "photos")
    (photos / "ant/pipe.png").symlink_to(tmp_path / "nowhere")
    (photos / "bee/damaged.png").write_bytes(b"no image")
    (photos / "loose.png").write_bytes((photos / "ant/000.png").read_bytes())
    with opened(IMAGE_FOLDER, tmp_path, photos) as whole:
        assert len(whole.left_out) == 2 and {one.of for one in whole.left_out} == {"ant", None}
        for chosen, expected in {
            None: {"ant/pipe.png", "bee/damaged.png", "loose.png"},
            ("ant",): {"ant/pipe.png", "loose.png"},
            ("bee", "cow"): {"bee/damaged.png", "loose.png"},
            ("cow",): {"loose.png"},
        }.items():
            folder = tmp_path / "-".join(chosen or ("all",))
            made(folder, whole.of_classes(chosen), most_bad=0.5)
            with (folder / "images/quarantine.csv").open() as file:
                rows = list(csv.DictReader(file))
            assert list(rows[0]) == ["name", "kind", "detail"]
            assert {row["name"] for row in rows} == expected


def test_a_class_that_only_test_has_is_no_matter_when_others_are_chosen(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for split in ("train", "test"):
        own(photos / split, 8)
    own(photos / "test/eel", 4)
    for path in (photos / "test/eel").rglob("*.png"):
        path.rename(photos / "test/eel" / path.name)
    with opened(IMAGE_FOLDER, tmp_path, photos) as whole:
        assert [one.of for one in whole.left_out] == ["eel"] * 4
        assert whole.of_classes(("ant", "bee")).left_out == ()
        assert whole.of_classes(CLASSES).left_out == (), "all that can be trained on are chosen"


def test_what_is_left_out_of_no_known_class_counts() -> None:
    unknown, other = LeftOut(name="a", kind="bad"), LeftOut(name="b", kind="bad", of="cow")
    assert published(left_out=(unknown, other)).of_classes(("ant",)).left_out == (unknown,)


# Two domains


def domains(folder: Path, names: Sequence[str]) -> list[Path]:
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        path.mkdir(parents=True)
        for number in range(20):
            image = RNG(seed * 100 + number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(image).save(path / f"{number:02}.png")
    return paths


@pytest.mark.parametrize("chosen", [("sketches", "photos"), ("photos", "sketches")])
def test_pairs_stay_pairs_in_either_order(tmp_path: Path, chosen: tuple[str, str]) -> None:
    with opened(PAIRED, tmp_path, *domains(tmp_path, ("sketches", "photos"))) as whole:
        info = made(tmp_path / "whole", whole)
        assert made(tmp_path / "some", whole.of_classes(chosen))["paired"] and info["paired"]
    all_of, some = (open_dataset(tmp_path / name / "data") for name in ("whole", "some"))
    assert some.info["classes"] == list(chosen)
    for name in chosen:
        for split in ("train", "test"):
            left, right = (data.of_class(name).splits[split] for data in (some, all_of))
            np.testing.assert_array_equal(left.images(range(len(left))), right.images(range(len(right))))


def test_one_class_of_pairs_is_its_images_alone(tmp_path: Path) -> None:
    with opened(PAIRED, tmp_path, *domains(tmp_path, ("sketches", "photos"))) as whole:
        info = made(tmp_path / "some", whole.of_classes(("photos",)))
    assert "paired" not in info and info["classes"] == ["photos"]
    assert sum(split["count"] for split in info["splits"].values()) == 20


def test_one_of_two_domains_is_its_images_alone(tmp_path: Path) -> None:
    places = domains(tmp_path, ("horses", "zebras"))
    (places[1] / "bad.png").symlink_to(tmp_path / "nowhere")
    with opened(UNPAIRED, tmp_path, *places) as whole:
        horses = whole.of_classes(("horses",))
        assert order(horses.splits["train"], ("horses",), ("horses",)) == order(
            whole.splits["train"], ("horses",), whole.classes
        )
        assert len(whole.left_out) == 1 and not horses.left_out
        assert len(whole.of_classes(("zebras", "horses")).left_out) == 1
