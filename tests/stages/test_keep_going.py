"""One run's trouble is its own: `make repro` goes on, reports all and ends with what failed; by real DVC."""

import csv
import re
import sys
from pathlib import Path

import pytest
import yaml
from repository import RUNS, call, copy_project, write_params

VAE = RUNS["vae"] | {"images": 640}
GLOW = VAE | {"method": "glow", "levels": 2, "steps": 4, "width": 16, "lr": 0.01, "images": 2560}
del GLOW["latent"]


def repro(folder: Path, *, ok: bool) -> str:
    """The recipe of the Makefile, with the environment of the tests in the place of .venv."""
    (folder / ".ready").touch()
    return call(folder, "make", "repro", "READY=.ready", f"BIN={Path(sys.executable).parent}", ok=ok)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_in_trouble_leaves_the_others_their_scores_pictures_and_report(tmp_path: Path) -> None:
    runs = {
        "fine": VAE,
        "diverging": VAE | {"lr": 1e6},
        "overflowing": GLOW | {"least_scale": 0.0, "temperature": 30.0},
        "tuned": VAE | {"init_from": "runs/diverging"},
    }
    folder = copy_project(tmp_path, runs)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["evaluate"]["metrics"] = ["kid"]
    write_params(folder, params)
    output = repro(folder, ok=False)
    last = output[output.index("error: not all runs are well") :]
    assert re.search(r"\n  diverging: training diverged.*It ended before its first checkpoint", last)
    assert re.search(r"\n  overflowing: no KID .*the training did not diverge.*Raise least_scale \(now 0.0", last)
    assert "\n  tuned: not trained: it begins from runs/diverging" in last and "\n  fine" not in last
    with (folder / "out/leaderboard.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows.keys() == runs.keys() and float(rows["fine"]["score"]) > 0 and rows["fine"]["failed"] == ""
    assert all(rows[name]["score"] == "" and rows[name]["failed"] for name in runs if name != "fine")
    assert (folder / "out/runs/overflowing/samples.png").exists()
    page = (folder / "out/report.html").read_text()
    assert "training diverged" in page and "begins from runs/diverging" in page
    assert "score" in call(folder, "dvc", "plots", "show", "--json")

    del params["runs"]["tuned"], params["runs"]["overflowing"]
    params["runs"]["diverging"]["lr"] = 1e-3
    write_params(folder, params)
    assert "not all runs are well" not in repro(folder, ok=True)
    assert not list((folder / "out/runs").glob("diverging/failed.json"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifteen_images_train_and_give_pictures_and_the_metric_says_what_it_lacks(tmp_path: Path) -> None:
    from PIL import Image

    folder = copy_project(tmp_path, {"fine": VAE})
    for index in range(15):
        path = folder / "photos" / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 17 * index).save(path)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["data"] |= {"source": "image_folder", "path": "photos"}
    write_params(folder, params)
    call(folder, "dvc", "repro")
    assert (folder / "out/runs/fine/samples.png").exists()
    page = (folder / "out/report.html").read_text()
    lacking = re.search(
        r"no FID efficientnet_lite0: (\d+) real images to compare with; at least 20 are needed. Add", page
    )
    assert lacking and 1 <= int(lacking[1]) < 15, "their content decides how many are held out"
    with (folder / "out/leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["failed"] == "" and float(row["is_efficientnet_lite0"]) >= 1
