"""One project for the tests of this folder: `dvc repro` in a copy, on the embedded digits, tiny, without Ray."""

from pathlib import Path

import pytest
from repository import RUNS, call, commit, copy_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy after its first `dvc repro`, whose output is in first.txt."""
    folder = copy_project(tmp_path_factory.mktemp("project"), RUNS)
    (folder / "first.txt").write_text(call(folder, "dvc", "repro"))
    commit(folder, "first")
    return folder
