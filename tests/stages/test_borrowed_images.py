"""The user's own images in a temporary copy of DVC's, which has only files that git holds; -S for what is not written.

Real DVC. Each experiment goes as far as the data.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from repository import RUNS, call, commit, copy_project, stages_that_ran, write_params

pytestmark = pytest.mark.slow
LOOK = "data/dvc.yaml:own"


def fill(folder: Path, shade: int) -> None:
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(5):
            pixels = np.full((8, 8), shade + number, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")


def zipped(folder: Path) -> None:
    shutil.make_archive(str(folder), "zip", folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose images git does not hold: a zip, a folder, half of a folder."""
    folder = copy_project(tmp_path_factory.mktemp("photos"), {"vae": RUNS["vae"]})
    for name in ("photos", "half"):
        fill(folder / name, 10)
    zipped(folder / "photos")
    with (folder / ".gitignore").open("a") as file:
        file.write("/photos\n/photos.zip\n/half/dogs\n")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["data"] |= {"source": "image_folder", "path": "photos.zip", "size": 8}
    write_params(folder, params)
    call(folder, "dvc", "repro", "normalize")
    commit(folder, "data")
    return folder


def experiment(folder: Path, *changes: str) -> tuple[list[str], str]:
    arguments = [argument for change in changes for argument in ("-S", change)]
    output = call(folder, "dvc", "exp", "run", "--temp", *arguments, "normalize")
    return stages_that_ran(output), output


def test_a_zip_that_git_does_not_hold_is_found_and_a_changed_one_is_read_again(photos: Path) -> None:
    ran, output = experiment(photos)
    assert set(ran) == {"code", LOOK} and "WARNING" not in output
    assert set(experiment(photos, "data.size=16")[0]) == {"code", LOOK, "normalize"}
    fill(photos / "photos", 90)
    zipped(photos / "photos")
    assert set(experiment(photos)[0]) == {"code", LOOK, "download", "normalize"}
    output = call(photos, "dvc", "repro", "normalize")  # the experiment's results, from DVC's run cache
    assert "Stage 'download' is cached" in output and "Stage 'normalize' is cached" in output
    commit(photos, "other images")


@pytest.mark.parametrize("path", ["photos", "half", "ABSOLUTE"])
def test_a_folder_is_found_as_a_whole(photos: Path, path: str) -> None:
    """Also one of which git holds some files, and one by its absolute path."""
    given = str(photos / "photos") if path == "ABSOLUTE" else path
    ran, output = experiment(photos, f"data.path={given}")
    assert {"code", LOOK} <= set(ran) and "WARNING" not in output
    assert "download" in ran or path == "ABSOLUTE", "the same images as photos, wherever they are looked for"
    assert len(list((photos / "photos").rglob("*.png"))) == 10  # nothing happened to the images themselves


def test_a_setting_that_is_not_written_takes_a_plus(photos: Path) -> None:
    without = call(photos, "dvc", "exp", "run", "--temp", "-S", "runs.vae.beta2=0.9", "code", ok=False)
    assert "+runs.vae.beta2" in without
    assert set(experiment(photos, "+runs.vae.beta2=0.9")[0]) == {"code", LOOK}


def test_what_is_wrong_is_said_before_the_first_stage(photos: Path) -> None:
    for change, message in [
        ("data.size=9", "data.size: 9 is not 4, 5"),
        ("+runs.vae.freeze=[encodr]", "runs.vae.freeze: 'encodr' names no parameter"),
        ("data.path=nothing", "data.path: there is no 'nothing'. Name a folder or an archive of images."),
        ("evaluate.weights=nothing.pth", "evaluate.weights: there is no file 'nothing.pth'"),
    ]:
        output = call(photos, "dvc", "exp", "run", "--temp", "-S", change, ok=False)
        assert f"error: params.yaml: {message}" in output, output
        assert stages_that_ran(output) == ["code"]
