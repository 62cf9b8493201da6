"""Pairs of images: side by side, and by the names of files; they stay pairs through splits and shards."""

from pathlib import Path

import numpy as np
import pytest
from published import as_file, images_of, jpeg, opened_own, own_origin, put, tar_bytes, zip_bytes
from toy_data import split_images

from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.shards import Work
from pipeline.ingest.source import RawSplit

BROKEN = b"no image"


def beside(left: int, right: int, width: int = 24) -> bytes:
    """Two images side by side, of one shade each."""
    image = np.full((12, width, 3), left, dtype=np.uint8)
    image[:, width // 2 :] = right
    return as_file(image)


def pairs_of(split: RawSplit) -> list[tuple[int, int]]:
    """The shades of both images of each pair, in the order of their names."""
    shades = [round(float(image.mean())) for image in images_of(split)]
    sides = [
        [shades[k] for k in sorted(range(len(shades)), key=split.name) if split.labels[k] == label] for label in (0, 1)
    ]
    return list(zip(*sides, strict=True))


def test_images_side_by_side_are_cut_in_two(tmp_path: Path) -> None:
    for split, files in {
        "train": {"1.png": beside(10, 20), "2.png": beside(30, 40)},
        "val": {"1.png": beside(50, 60)},
    }.items():
        (tmp_path / "facades").mkdir(exist_ok=True)
        put(tmp_path / "facades" / split, files)
    with opened_own("paired", tmp_path, tmp_path / "facades") as found:
        assert found.classes == ("A", "B") and found.paired
        assert pairs_of(found.splits["train"]) == [(10, 20), (30, 40)] and pairs_of(found.splits["test"]) == [(50, 60)]
        assert images_of(found.splits["test"])[0].shape == (12, 12, 3)


def test_what_is_no_two_images_is_left_out_whole(tmp_path: Path) -> None:
    good = {f"{k}.png": beside(10 * k, 20) for k in range(4, 16)}
    put(tmp_path / "own", good | {"2.png": beside(10, 20, 12), "3.png": beside(10, 20, 25)})
    images = normalized(tmp_path, tmp_path / "own", most_bad=0.2)
    assert sum(len(split) for split in images.values()) == 2 * len(good)
    quarantine = (tmp_path / "about" / "quarantine.csv").read_text()
    assert quarantine.count("not two images side by side") == 4 and "25 x 12" in quarantine and "12 x 12" in quarantine


@pytest.mark.parametrize("layout", ["trainA", "A", "two paths", "archive", "two archives"])
def test_files_of_one_name_are_a_pair_whatever_their_suffixes(layout: str, tmp_path: Path) -> None:
    first = {f"{k}.jpg": jpeg(20 * k) for k in (3, 1, 2)} | {"x.a.jpg": jpeg(100), "x.jpg": jpeg(120)}
    second = {f"{k}.png": jpeg(20 * k + 10) for k in (1, 2, 3)} | {"x.a.png": jpeg(110), "x.png": jpeg(130)}
    paths, classes = [tmp_path / "set"], ("A", "B")
    if layout == "two paths":
        paths, classes = [put(tmp_path / "sketches", first), put(tmp_path / "photos", second)], ("sketches", "photos")
    elif layout == "archive":
        members = {f"data/A/{name}": file for name, file in first.items()}
        put(tmp_path, {"set.zip": zip_bytes(members | {f"data/B/{name}": file for name, file in second.items()})})
        paths = [tmp_path / "set.zip"]
    elif layout == "two archives":
        put(tmp_path, {"s.zip": zip_bytes(first), "p.tar": tar_bytes(second)})
        paths, classes = [tmp_path / "s.zip", tmp_path / "p.tar"], ("s", "p")
    else:
        (tmp_path / "set").mkdir()
        for letter, files in (("A", first), ("B", second)):
            put(tmp_path / "set" / layout.replace("A", letter), files)
    with opened_own("paired", tmp_path, *paths) as found:
        assert found.classes == classes
        assert sorted(pairs_of(found.splits["train"])) == [(20, 30), (40, 50), (60, 70), (100, 110), (120, 130)]


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    first = put(tmp_path / "a", {name: jpeg(20) for name in ("1.jpg", "2.jpg")})
    second = put(tmp_path / "b", {name: jpeg(20) for name in ("1.jpg", "3.jpg")})
    message = r"2 images have no partner of their name: A/2.jpg \(not in b\), B/3.jpg \(not in a\)\. Add or remove"
    with pytest.raises(UserError, match=message), opened_own("paired", tmp_path, first, second):
        pass


def test_two_files_for_one_partner_are_refused(tmp_path: Path) -> None:
    first = put(tmp_path / "a", {name: jpeg(20) for name in ("1.jpg", "1.png")})
    second = put(tmp_path / "b", {"1.jpg": jpeg(20)})
    with (
        pytest.raises(UserError, match=r"A/1\.jpg and A/1\.png pair with the same"),
        opened_own("paired", tmp_path, first, second),
    ):
        pass


def test_three_paths_are_refused(tmp_path: Path) -> None:
    paths = [put(tmp_path / name, {"1.jpg": jpeg(20)}) for name in "xyz"]
    with (
        pytest.raises(UserError, match=r"data\.path: 3 paths\. Name one, or two"),
        opened_own("paired", tmp_path, *paths),
    ):
        pass


def normalized(tmp_path: Path, *paths: Path, most_bad: float = 0.0) -> dict[str, np.ndarray]:
    with opened_own("paired", tmp_path, *paths) as raw:
        normalize(
            raw,
            tmp_path / "data",
            tmp_path / "about",
            Normalization(channels=1, size=8),
            source="paired",
            test_fraction=0.3,
            most_bad=most_bad,
            work=Work(folder=tmp_path / "work", identity="", mean_bytes=5 * 64, most_bytes=9 * 64),
        )
    return {name: split_images(tmp_path / "data", name) for name in ("train", "test")}


def test_pairs_stay_pairs_through_splits_shards_and_damage(tmp_path: Path) -> None:
    """40 pairs of shades k and k + 100; each of four damaged files takes its partner with it."""
    sides = [
        {f"{k}.png": as_file(np.full((9, 9), k + 100 * side, dtype=np.uint8)) for k in range(40)} for side in (0, 1)
    ]
    sides[0] |= {"7.png": BROKEN, "21.png": BROKEN}
    sides[1] |= {"8.png": BROKEN, "33.png": b""}
    normalized(tmp_path, put(tmp_path / "a", sides[0]), put(tmp_path / "b", sides[1]), most_bad=0.2)
    whole, shown = open_dataset(tmp_path / "data"), set()
    assert whole.info["paired"] is True and whole.info["classes"] == ["a", "b"]
    for name in ("train", "test"):
        first, second = (whole.of_class(side).splits[name] for side in ("a", "b"))
        assert len(first) == len(second) > 2
        for row in range(len(first)):
            one, other = (int(split.images([row]).float().mean()) for split in (first, second))
            assert other == one + 100
            shown.add(one)
    assert shown == set(range(40)) - {7, 21, 8, 33}
    quarantine = (tmp_path / "about" / "quarantine.csv").read_text().splitlines()[1:]
    assert len(quarantine) == 8


def test_the_domains_are_known_before_the_download(tmp_path: Path) -> None:
    source = sources.find("paired")
    paths = [put(tmp_path / name, {"1.jpg": jpeg(20)}) for name in ("sketches", "photos")]
    assert source.foreseen_classes(own_origin(source, tmp_path, *paths)) == ("sketches", "photos")
    assert source.foreseen_classes(own_origin(source, tmp_path, paths[0])) == ("A", "B")
