"""A user's own photographs through DVC: flat, with rubbish among them, grown, and pulled elsewhere."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from repository import RUNS, call, commit, copy_project, stages_that_ran, write_params

from pipeline.data.dataset import open_dataset
from pipeline.files import read_csv

LOOK = "data/dvc.yaml:own"


def add(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    copy_project(project, {"vae": RUNS["vae"] | {"images": 128}})
    add(project / "photos", range(300))
    os.mkfifo(project / "photos" / "pipe.png")
    (project / "photos" / "old.png").symlink_to("gone.png")
    with (project / ".gitignore").open("a") as file:
        file.write("/photos\n")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"] |= {"source": "image_folder", "path": "photos", "size": 8}
    write_params(project, params)
    return project


def test_a_flat_folder_with_rubbish_in_it_grows_and_is_pulled_elsewhere(photos: Path, tmp_path: Path) -> None:
    output = call(photos, "dvc", "repro", "inspect", "normalize")
    assert "2 of 302 images are left out" in output and "named pipe" in output and "link to nothing" in output
    before = open_dataset(photos / "out/data")
    assert before.spec.channels == 3 and before.info["classes"] == ["images"]
    assert (photos / "out/inspection/data.html").stat().st_size > 10_000
    assert stages_that_ran(call(photos, "dvc", "repro", "normalize")) == [LOOK]
    was = {row["name"]: row["split"] for row in read_csv(photos / "out/images/images.csv")}

    told = call(photos, sys.executable, "-m", "pipeline", "lineage", "out/data/spec.json")
    assert f"stage {LOOK}" in told and 'param data.path = "photos"' in told, "which images, and where they were"
    add(photos / "photos", range(300, 320))
    assert stages_that_ran(call(photos, "dvc", "repro", "normalize")) == [LOOK, "download", "normalize"]
    now = {row["name"]: row["split"] for row in read_csv(photos / "out/images/images.csv")}
    assert len(now) == 320 and {name: now[name] for name in was} == was, "no image has moved to the other split"

    remote = tmp_path / "remote"
    call(photos, "dvc", "remote", "add", "-d", "store", str(remote))
    call(photos, "dvc", "push", "-q", "normalize", "download", "code")
    commit(photos, "data")
    clone = tmp_path / "clone"
    call(photos, "git", "clone", "-q", str(photos), str(clone))
    call(clone, "dvc", "pull", "-q", "normalize", "download", "code")
    output = call(clone, "dvc", "repro", "normalize")
    assert set(stages_that_ran(output)) <= {LOOK, "code"} and "The listing of the last time stands" in output
    params = yaml.safe_load((clone / "params.yaml").read_text())
    write_params(clone, params | {"data": params["data"] | {"path": "fotos"}})
    assert "data.path: there is no 'fotos'" in call(clone, "dvc", "repro", "normalize", ok=False), "not another listing"
    params["data"]["size"] = 16
    write_params(clone, params)
    assert "Run `dvc repro` to list the images anew" in call(clone, "dvc", "repro", "normalize", ok=False)
    shutil.copytree(photos / "photos", clone / "photos", symlinks=True, ignore=shutil.ignore_patterns("pipe.png"))
    os.mkfifo(clone / "photos" / "pipe.png")
    assert stages_that_ran(call(clone, "dvc", "repro", "normalize")) == [LOOK, "normalize"]
