"""The whole pipeline as a user runs it: `dvc repro` in a copy of the project, on the embedded digits, tiny.

Workers 0 here, so that it takes minutes; the same with Ray is marked slow.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from repository import RUNS, call, changed_stages, copy_project, digest, environment, stages_that_ran, write_params

GENLOOM = (sys.executable, "-m", "pipeline")
OUTPUTS = [
    "weights.safetensors",
    "train.json",
    "features",
    "metrics.json",
    "history.csv",
    "samples.png",
    "panels",
    "comparisons",
    "explorer",
]


def test_every_output_is_there(project: Path) -> None:
    for run in RUNS:
        for name in OUTPUTS:
            assert (project / "out/runs" / run / name).exists(), f"{run}/{name}"
    for name in (
        "out/data/spec.json",
        "out/reference",
        "out/report.html",
        "out/explorer",
        "out/leaderboard.csv",
        "mlflow.db",
    ):
        assert (project / name).exists(), name
    with (project / "out/leaderboard.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(RUNS)
    assert all(float(row["fid_efficientnet_lite0"]) > 0 for row in rows.values())


def test_a_second_repro_runs_nothing(project: Path) -> None:
    output = call(project, "dvc", "repro")
    assert not stages_that_ran(output) and "up to date" in output


def test_a_run_that_begins_from_another_is_redone_with_it(project: Path) -> None:
    from pipeline.inference.weights import load_tensors

    tensors = {run: load_tensors(project / "out/runs" / run / "weights.safetensors") for run in ("dcgan", "tuned")}
    equal = {name for name, tensor in tensors["dcgan"].items() if tensor.equal(tensors["tuned"][name])}
    assert "critic.layers.0.weight" in equal and "critic.layers.2.weight" not in equal
    assert re.search(r"runs/dcgan: (\d+) of \1 tensors were loaded\n", (project / "first.txt").read_text())
    weights = project / "out/runs/dcgan/weights.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(before + b" ")
    assert "train@tuned" in changed_stages(project)
    weights.write_bytes(before)


def test_mlflow_has_every_point_of_the_history_once(project: Path) -> None:
    for run in RUNS:
        points = tracked(project, run)
        assert_tracked_equals_history(project, run, points)
        assert "fid_efficientnet_lite0" in points


def test_a_run_with_two_seeds_is_one_entry_of_two_trainings(project: Path) -> None:
    from mlflow import MlflowClient

    folder = project / "out/runs/tuned"
    metrics, protocol = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "protocol"))
    alone = {seed: how["value"] for seed, how in protocol["fid_efficientnet_lite0"]["by_seed"].items()}
    assert set(alone) == {"0", "3"} and alone["0"] != alone["3"]
    assert metrics["fid_efficientnet_lite0"] == pytest.approx(sum(alone.values()) / 2, rel=1e-12)
    with (project / "out/leaderboard.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["run"] == "tuned"]
    low, high = (float(row[f"fid_efficientnet_lite0_{end}"]) for end in ("low", "high"))
    spread = abs(alone["0"] - alone["3"]) / 2  # the error of two: s / sqrt(2)
    assert (high - low) / 2 == pytest.approx(12.7062 * spread, rel=1e-4)
    runs = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"], "attributes.run_name = 'tuned'")
    assert {run.data.params["seed"]: run.data.metrics["fid_efficientnet_lite0"] for run in runs} == alone


def test_a_run_in_mlflow_is_scored_as_its_files_were(project: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs(["1"], "attributes.run_name = 'vae'")
    call(project, *GENLOOM, "evaluate", f"runs:/{run.info.run_id}", "--to", "from-mlflow.json")
    found = json.loads((project / "from-mlflow.json").read_text())["metrics"]
    assert found == json.loads((project / "out/runs/vae/metrics.json").read_text())


def test_a_kill_of_the_trainer_is_resumed_bit_equal(project: Path) -> None:
    """kill -9 between two checkpoints, in the same MLflow run, without a double or missing point."""
    killed_and_resumed(project, "dcgan")


SEVERAL_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core trains one by one")


@SEVERAL_CORES
def test_small_runs_are_trained_beside_each_other_to_the_same_weights(project: Path) -> None:
    """On the first `dvc repro`; the second training came before its stage, which published it."""
    assert "vae: this very training is finished: publishing" in (project / "first.txt").read_text()
    published = project / "out/runs/vae"
    shutil.copytree(published, project / "kept-vae")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["cluster"]["storage"], params["tracking"]["uri"] = ".alone", "sqlite:///alone.db"
    write_params(project, params)
    assert "finished" not in call(project, sys.executable, "-m", "pipeline.stages.train", "vae")
    assert digest(published / "weights.safetensors") == digest(project / "kept-vae/weights.safetensors")
    call(project, "git", "checkout", "-q", "params.yaml")
    shutil.rmtree(published)
    (project / "kept-vae").rename(published)


@pytest.mark.slow
@SEVERAL_CORES
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_trainings_beside_each_other_end_with_dvc_and_go_on(tmp_path: Path, number: signal.Signals) -> None:
    runs = {name: RUNS[name] | {"images": 100_000, "checkpoint_every": 1024} for name in ("dcgan", "vae")}
    folder = copy_project(tmp_path, runs)
    dvc = subprocess.Popen(["dvc", "repro"], cwd=folder, env=environment(), start_new_session=True)
    for run in runs:
        wait_for_checkpoint(folder, run, dvc, ".genloom")
    os.killpg(dvc.pid, number)  # for all that a terminal runs
    dvc.wait(60)
    deadline = time.monotonic() + 30
    while left := [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    said = call(folder, "dvc", "repro", "train@dcgan", "train@vae")
    assert said.count("going on from the checkpoint") == 2 and "another process" not in said


@pytest.mark.slow  # tests/training/test_budgets.py has the law without DVC
def test_other_budgets_go_on_from_what_is_there(project: Path) -> None:
    """A larger one trains the rest alone; then the smaller one is there already, and a checkpoint can be published."""
    published = project / "out/runs/vae"
    wanted, history = digest(published / "weights.safetensors"), (published / "history.csv").read_text()
    shutil.copytree(published, project / "published-vae")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["cluster"]["storage"], params["tracking"]["uri"] = ".budgets", "sqlite:///budgets.db"
    said = []
    for images in (640, 1920, 1280):
        params["runs"]["vae"]["images"] = images
        write_params(project, params)
        said.append(call(project, sys.executable, "-m", "pipeline.stages.train", "vae"))
    assert "vae: going on from the checkpoint at 640 images" in said[1]
    assert "vae: going on from the checkpoint at 640 images" in said[2]  # two of the larger one are kept, beyond 1,280
    assert digest(published / "weights.safetensors") == wanted
    assert (published / "history.csv").read_text() == history
    call(project, *GENLOOM, "publish", "vae", "--at", "1920")
    assert json.loads((project / "published/vae-1920/train.json").read_text())["seen"] == 1920
    call(project, *GENLOOM, "sample", "published/vae-1920", "--count", "3", "--to", "published/samples")
    assert len(list((project / "published/samples").glob("*.png"))) == 3
    call(project, *GENLOOM, "evaluate", "published/vae-1920", "--to", "published/scores.json")
    scores = json.loads((project / "published/scores.json").read_text())
    assert scores["seen"] == 1920 and scores["metrics"]["fid_efficientnet_lite0"] > 0
    assert scores["protocol"]["fid_efficientnet_lite0"]["generated"]["images_seen"] == 1920
    assert "no checkpoint at 5 images; there are: 640, 1024, 1280, 1792, 1920" in call(
        project, *GENLOOM, "publish", "vae", "--at", "5", ok=False
    )
    assert "exists already" in call(project, *GENLOOM, "publish", "vae", ok=False)
    call(project, "git", "checkout", "-q", "params.yaml")
    shutil.rmtree(published)
    (project / "published-vae").rename(published)


@pytest.mark.slow
def test_a_kill_under_ray_is_resumed_bit_equal(tmp_path: Path) -> None:
    runs = {"dcgan": RUNS["dcgan"] | {"images": 6400}}
    folder = copy_project(tmp_path, runs, workers=1)
    assert "tracking:" not in call(folder, "dvc", "repro")  # no complaint of the one that sends journals
    killed_and_resumed(folder, "dcgan")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_said_and_the_training_goes_on_when_there_is_room(tmp_path: Path, workers: int) -> None:
    """The scratch folder is a file system of its own that another file fills in mid-training."""
    runs = {"dcgan": RUNS["dcgan"] | {"images": 64_000, "checkpoint_every": 640}}
    folder = copy_project(tmp_path, runs, workers=workers)
    scratch = folder / ".genloom"
    scratch.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(scratch)]).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        call(folder, "dvc", "repro", "normalize")
        command = [sys.executable, "-m", "pipeline.stages.train", "dcgan"]
        trainer = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_checkpoint(folder, "dcgan", trainer, ".genloom")
        with (scratch / "filler").open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
                file.flush()
        output, _ = trainer.communicate(timeout=300)
        assert trainer.returncode == 1, output
        assert re.search("error: .*(disk is full|No space left on device)", output), output
        assert not (folder / "out/runs/dcgan/train.json").exists()
        (scratch / "filler").unlink()
        call(folder, *command)
        assert_tracked_equals_history(folder, "dcgan", tracked(folder, "dcgan"))
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)


def killed_and_resumed(folder: Path, run: str) -> None:
    """Trains the run anew in other scratch, kills the driver mid-train, repeats the command, compares all."""
    published = folder / "out/runs" / run
    shutil.copytree(published, folder / f"kept-{run}")
    wanted = digest(folder / "out/runs" / run / "weights.safetensors")
    history = (folder / "out/runs" / run / "history.csv").read_text()
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["cluster"]["storage"] = ".other"
    params["tracking"]["uri"] = "sqlite:///other.db"
    write_params(folder, params)
    command = [sys.executable, "-m", "pipeline.stages.train", run]
    trainer = subprocess.Popen(
        command, cwd=folder, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_for_checkpoint(folder, run, trainer)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    call(folder, *command)
    assert digest(folder / "out/runs" / run / "weights.safetensors") == wanted
    assert (folder / "out/runs" / run / "history.csv").read_text() == history
    assert_tracked_equals_history(folder, run, tracked(folder, run, "other.db"))
    call(folder, "git", "checkout", "-q", "params.yaml")
    # As it was: another cost is a change to DVC.
    shutil.rmtree(published)
    (folder / f"kept-{run}").rename(published)


def wait_for_checkpoint(folder: Path, run: str, trainer: "subprocess.Popen[Any]", scratch: str = ".other") -> None:
    """Until one is there and training goes on."""
    deadline = time.monotonic() + 180
    while not list(folder.glob(f"{scratch}/trainings/{run}-*/checkpoints/*/manifest.json")):
        assert trainer.poll() is None, "the trainer ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)


def tracked(folder: Path, run: str, database: str = "mlflow.db") -> dict[str, list[tuple[int, float]]]:
    """Every metric's (step, value) points of the one MLflow run of that name, of the first seed where there are two."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / database}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "genloom"]
    key = json.loads((folder / "out/runs" / run / "train.json").read_text())["key"]
    known = client.search_runs([experiment.experiment_id])
    (found,) = [r for r in known if r.info.run_name == run and r.data.tags["genloom.key"] == key]
    assert found.info.status == "FINISHED"
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


def assert_tracked_equals_history(folder: Path, run: str, points: dict[str, list[tuple[int, float]]]) -> None:
    with (folder / "out/runs" / run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in rows[0]:
        if name != "seen":
            kept = [(int(row["seen"]), float(row[name])) for row in rows if row[name]]  # empty where nobody looked
            assert kept and points[name] == kept, name
