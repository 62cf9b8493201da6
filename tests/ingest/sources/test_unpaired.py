"""Two domains, of any kind of files each."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import (
    as_file,
    images_of,
    jpeg,
    left_out,
    opened_own,
    own_origin,
    picture,
    put,
    shades,
    tar_bytes,
    zip_bytes,
)

from pipeline.errors import UserError
from pipeline.ingest import sources
from pipeline.ingest.sources.unpaired import domains_of


def folder(tmp_path: Path, name: str, *values: int) -> Path:
    return put(tmp_path / name, {f"{value}.jpg": jpeg(value) for value in values})


def test_two_folders(tmp_path: Path) -> None:
    first, second = folder(tmp_path, "horses", 20, 40, 60), folder(tmp_path, "zebras", 100, 120)
    with opened_own("unpaired", tmp_path, first, second) as dataset:
        assert dataset.classes == ("horses", "zebras") and set(dataset.splits) == {"train"}
        train = dataset.splits["train"]
        assert shades(train) == {20: 0, 40: 0, 60: 0, 100: 1, 120: 1}
        assert train.name(4) == "B/120.jpg" and len(set(train.digests or ())) == 5


def test_folders_of_one_name_are_a_and_b(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = folder(tmp_path / "one", "images", 20), folder(tmp_path / "two", "images", 90)
    with opened_own("unpaired", tmp_path, first, second) as dataset:
        assert dataset.classes == ("A", "B") and shades(dataset.splits["train"]) == {20: 0, 90: 1}


def test_an_archive_and_a_parquet_file(tmp_path: Path) -> None:
    put(tmp_path, {"horses.zip": zip_bytes({"a/1.jpg": jpeg(20), "b/2.jpg": jpeg(40)})})
    pq.write_table(pa.table({"image": [as_file(picture(1)), None], "label": [3, 4]}), tmp_path / "zebras.parquet")
    with opened_own("unpaired", tmp_path, tmp_path / "horses.zip", tmp_path / "zebras.parquet") as dataset:
        assert dataset.classes == ("horses", "zebras")
        train = dataset.splits["train"]
        assert train.labels.tolist() == [0, 0, 1]
        np.testing.assert_array_equal(np.asarray(train.decode(2)), picture(1))
        assert left_out(dataset) == {"zebras/zebras.parquet/00000-000001": "image is not in the file"}


def test_shards_and_an_array(tmp_path: Path) -> None:
    put(tmp_path / "shards", {f"{n}.tar": tar_bytes({f"{n}.jpg": jpeg(50 * n), f"{n}.cls": b"7"}) for n in (1, 2)})
    np.savez(tmp_path / "zebras.npz", images=np.full((2, 6, 6), [[[200]], [[220]]], dtype=np.uint8), labels=[4, 5])
    with opened_own("unpaired", tmp_path, tmp_path / "shards", tmp_path / "zebras.npz") as dataset:
        assert shades(dataset.splits["train"]) == {50: 0, 100: 0, 200: 1, 220: 1}


def split_folder(tmp_path: Path, name: str, train: int, test: int) -> Path:
    for part, value in (("train", train), ("test", test)):
        (tmp_path / name / part).mkdir(parents=True)
        put(tmp_path / name / part, {f"{value}.jpg": jpeg(value)})
    return tmp_path / name


def test_splits_where_both_have_them(tmp_path: Path) -> None:
    first, second = split_folder(tmp_path, "x", 20, 40), split_folder(tmp_path, "y", 100, 120)
    with opened_own("unpaired", tmp_path, first, second) as dataset:
        assert shades(dataset.splits["train"]) == {20: 0, 100: 1} and shades(dataset.splits["test"]) == {40: 0, 120: 1}


def test_splits_where_one_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = folder(tmp_path, "x", 20), split_folder(tmp_path, "y", 100, 120)
    with opened_own("unpaired", tmp_path, first, second) as dataset:
        assert set(dataset.splits) == {"train"} and shades(dataset.splits["train"]) == {20: 0, 100: 1, 120: 1}
    assert "Only y has a test split" in caplog.text


def test_one_folder_of_four(tmp_path: Path) -> None:
    for name, value in (("trainA", 20), ("trainB", 60), ("testA", 100), ("testB", 140)):
        (tmp_path / "set" / name).mkdir(parents=True)
        put(tmp_path / "set" / name, {"1.jpg": jpeg(value)})
    with opened_own("unpaired", tmp_path, tmp_path / "set") as dataset:
        assert dataset.classes == ("A", "B")
        assert shades(dataset.splits["train"]) == {20: 0, 60: 1} and shades(dataset.splits["test"]) == {100: 0, 140: 1}
        assert images_of(dataset.splits["train"])[0].shape == (9, 12, 3)


def test_three_paths_are_refused(tmp_path: Path) -> None:
    paths = [folder(tmp_path, name, 20) for name in "xyz"]
    with pytest.raises(UserError, match=r"data\.path: 3 paths\. Name two"), opened_own("unpaired", tmp_path, *paths):
        pass


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("a/horses", "zebras.zip"), ("horses", "zebras")),
        (("s3://bucket/x/", "y.tar.gz"), ("x", "y")),
        (("a/*.tar", "b/*.tar"), ("A", "B")),
        (("x/images", "y/images.zip"), ("A", "B")),
    ],
)
def test_names_of_domains(paths: tuple[str, str], names: tuple[str, str], tmp_path: Path) -> None:
    assert domains_of(paths) == names


def test_the_domains_are_known_before_the_download(tmp_path: Path) -> None:
    source = sources.find("unpaired")
    given = own_origin(source, tmp_path, folder(tmp_path, "horses", 20), folder(tmp_path, "zebras", 90))
    assert source.foreseen_classes(given) == ("horses", "zebras")
