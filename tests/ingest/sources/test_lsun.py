"""LSUN's databases, made by LMDB itself; what is asked where the package is missing."""

import sys
from pathlib import Path

import pytest
from published import FILES, images_of, named, opened_own

from pipeline.errors import UserError


def test_categories_and_splits(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    with opened_own("lsun", tmp_path, FILES / "bedroom_train_lmdb", FILES / "bedroom_val_lmdb") as dataset:
        assert dataset.classes == ("bedroom",)
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert named(train) == {f"data.mdb/{number:040x}": 0 for number in range(3)}
        assert [image[1, 1].tolist() for image in images_of(train)] == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
        assert images_of(test)[0][1, 1].tolist() == [120, 120, 0]
    with opened_own("lsun", tmp_path, FILES) as dataset:
        assert len(dataset.splits["train"].labels) == 3 and len(dataset.splits["test"].labels) == 1


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with (
        pytest.raises(UserError, match=r"LSUN needs the package lmdb.*genloom\[lsun\]"),
        opened_own("lsun", tmp_path, FILES / "bedroom_train_lmdb"),
    ):
        pass
