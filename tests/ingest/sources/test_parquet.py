"""Parquet files with images: Hugging Face's and others, their labels, row groups and threads."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import FILES, as_file, images_of, left_out, opened_own, picture, put

from pipeline.errors import UserError
from pipeline.ingest import parquet_images
from pipeline.ingest.source import UNLABELED

HF = FILES / "hf-train-00000-of-00001.parquet"


def table(rows: int = 4, first: int = 0, **columns: Any) -> dict[str, Any]:
    return {"image": [as_file(picture(first + n)) for n in range(rows)]} | columns


def write(path: Path, columns: dict[str, Any], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_a_file_of_datasets_own_writer(tmp_path: Path) -> None:
    """-1 is a label of none; the 16-bit image is embedded as it was, and scaled."""
    with opened_own("parquet", tmp_path, HF) as dataset:
        assert dataset.classes == ("cat", "dog", "eel")
        train = dataset.splits["train"]
        assert train.labels.tolist() == [2, 0, 1]
        images = images_of(train)
        assert [image[1, 1].tolist() for image in images[:2]] == [[200, 0, 0], [0, 200, 0]]
        assert images[0].shape == (5, 7, 3) and images[0][0, 0].tolist() == [255, 255, 255]
        assert images[2].tolist() == [[0, 255], [128, 7]]
        assert list(left_out(dataset).values()) == ["no label"]
    with opened_own("parquet", tmp_path, HF, labels="none") as dataset:
        assert dataset.classes == (UNLABELED,) and len(dataset.splits["train"].labels) == 4
    with opened_own("parquet", tmp_path, HF, labels="note") as dataset:
        assert dataset.classes == ("a", "b", "c", "d") and dataset.splits["train"].labels.tolist() == [0, 1, 2, 3]


def test_a_file_that_has_paths_and_no_images_says_so(tmp_path: Path) -> None:
    """As Dataset.to_parquet() makes it of a folder of images."""
    with (
        pytest.raises(UserError, match="no image to train on"),
        opened_own("parquet", tmp_path, FILES / "hf-without-bytes.parquet"),
    ):
        pass
    mixed = [{"bytes": as_file(picture(0)), "path": "a.png"}, {"bytes": None, "path": "/home/x/b.png"}, None]
    path = write(tmp_path / "own" / "a.parquet", {"image": mixed})
    with opened_own("parquet", tmp_path, path) as dataset:
        assert dataset.splits["train"].name(0) == "a.parquet/00000-000000 a.png"
        assert left_out(dataset) == {
            "a.parquet/00000-000001": "image is not in the file",
            "a.parquet/00001-000000": "image is not in the file",
        }
        assert dataset.left_out[0].detail == "only its path, /home/x/b.png"


def test_splits_by_the_files_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder / "train-00000-of-00002.parquet", table(3, 0, label=[1, 0, 1]))
    write(folder / "train-00001-of-00002.parquet", table(2, 3, label=[0, 1]))
    write(folder / "validation-00000-of-00001.parquet", table(2, 5, label=[1, 0]))
    with opened_own("parquet", tmp_path, folder) as dataset:
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert train.labels.tolist() == [1, 0, 1, 0, 1] and test.labels.tolist() == [1, 0]
        for number, image in enumerate([*images_of(train), *images_of(test)]):
            np.testing.assert_array_equal(image, picture(number))
        assert list(train.names or ()) == sorted(train.names or ())
        assert train.digests is not None and train.digests[4] == hashlib.sha256(as_file(picture(4))).hexdigest()


def test_a_test_split_without_labels_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "data"
    write(folder / "train.parquet", table(3, 0, label=[1, 0, 1]))
    write(folder / "test.parquet", table(2, 3, label=[-1, -1]))
    with opened_own("parquet", tmp_path, folder) as dataset:
        assert set(dataset.splits) == {"train"} and not dataset.left_out
    assert "2 images of the test split have no labels" in caplog.text


def test_the_columns_are_found_or_named(tmp_path: Path) -> None:
    columns = table(2, 0, text=["a", "b"], kind=["sea", "air"], Label=pa.array([5, 2], pa.uint8()))
    path = write(tmp_path / "own" / "a.parquet", columns)
    with opened_own("parquet", tmp_path, path) as dataset:
        assert dataset.classes == ("0", "1", "2", "3", "4", "5") and dataset.splits["train"].labels.tolist() == [5, 2]
    with opened_own("parquet", tmp_path, path, labels="kind") as dataset:
        assert dataset.classes == ("air", "sea") and dataset.splits["train"].labels.tolist() == [1, 0]
    with (
        pytest.raises(UserError, match=r"a\.parquet: .*data\.labels: no column 'kinds'\. Did you mean 'kind'\?"),
        opened_own("parquet", tmp_path, path, labels="kinds"),
    ):
        pass
    path = write(tmp_path / "own" / "b.parquet", {"text": ["a"], "number": [1]})
    with (
        pytest.raises(UserError, match=r"b\.parquet: none of its columns \(text, number\) holds images"),
        opened_own("parquet", tmp_path, path),
    ):
        pass
    path = write(tmp_path / "own" / "c.parquet", table(1, 0, label=[[1, 2]]))
    with (
        pytest.raises(UserError, match=r"c\.parquet: .*several labels"),
        opened_own("parquet", tmp_path, path, labels="label"),
    ):
        pass


def test_consecutive_images_read_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "own" / "a.parquet", table(40), group=5)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return original(self, group, **options)

    with opened_own("parquet", tmp_path, path) as dataset:
        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
        with ThreadPoolExecutor(8) as pool:
            for number, image in enumerate(pool.map(dataset.splits["train"].decode, range(40))):
                np.testing.assert_array_equal(np.asarray(image), picture(number))
        assert sorted(read) == list(range(8))
        monkeypatch.setattr(parquet_images, "_KEPT_GROUPS", 2)
        numbers = np.random.default_rng(0).permutation(40).tolist()
        with ThreadPoolExecutor(8) as pool:
            for number, image in zip(numbers, pool.map(dataset.splits["train"].decode, numbers), strict=True):
                np.testing.assert_array_equal(np.asarray(image), picture(number))


def test_few_row_groups_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_images, "_KEPT_BYTES", 1)
    path = write(tmp_path / "own" / "a.parquet", table(12), group=2)
    groups = parquet_images._RowGroups(path)
    for group in range(6):
        groups.column(group)
        assert list(groups.kept) == [group]


@pytest.mark.parametrize("damage", ["cut", "no parquet", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table()), buffer)
    content = {"cut": buffer.getvalue()[:-10], "no parquet": b"PAR1" * 9, "empty": b""}[damage]
    folder = put(tmp_path / "own", {"a.parquet": content})
    with (
        pytest.raises(UserError, match=r"a\.parquet: no readable Parquet file"),
        opened_own("parquet", tmp_path, folder),
    ):
        pass


def test_a_folder_without_parquet_files(tmp_path: Path) -> None:
    folder = put(tmp_path / "own", {"a.png": as_file(picture(0))})
    with (
        pytest.raises(UserError, match=r"no file at .*own ends with \.parquet"),
        opened_own("parquet", tmp_path, folder),
    ):
        pass
