"""Searches as a user does them: with DVC and Ray Tune, killed at any moment, adopted and published."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from repository import RUNS, call, commit, copy_project, environment, stages_that_ran, write_params

from pipeline.tune.record import NAME, Record

pytestmark = pytest.mark.slow

SEARCH = {
    "space": {"lr": {"loguniform": [1e-4, 3e-2]}, "beta": {"uniform": [0.5, 8]}},
    "objective": "elbo_bits_per_dim",
    "scheduler": "asha",
    "rungs": [256, 640],
    "trials": 6,
    "startup": 3,
    "samples": 64,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = copy_project(tmp_path, {"vae": RUNS["vae"]})
    return folder


def with_search(folder: Path, images: int = 1280, **search: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["search"] = {"vae": SEARCH | search}
    params["runs"]["vae"]["images"] = images
    write_params(folder, params)


def record_of(folder: Path) -> Record:
    (path,) = folder.glob(f".genloom/search/vae-*/{NAME}")
    return Record(path.parent)


def start(folder: Path) -> "subprocess.Popen[str]":
    """The search stage itself; what it depends on is there."""
    command = [sys.executable, "-m", "pipeline.stages.search", "vae"]
    log = (folder / "search.log").open("a")
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log, text=True)


def wait_for(what: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def has(folder: Path, event: str, number: int) -> bool:
    paths = list(folder.glob(f".genloom/search/vae-*/{NAME}"))
    return bool(paths) and sum(e["event"] == event for e in Record(paths[0].parent).events) >= number


def actors(parent: psutil.Process, title: str = "ray::Actor") -> list[int]:
    """The ids of the processes that run trials of a search."""
    found = []
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):
            if child.cmdline()[0].startswith(title):
                found.append(child.pid)
    return found


def test_a_search_is_done_on_demand_adopted_and_published(project: Path) -> None:
    with_search(project)
    output = call(project, "dvc", "repro", "search/dvc.yaml:search@vae")
    assert [name.split(":")[-1] for name in stages_that_ran(output)][-1] == "search@vae"
    record = record_of(project)
    assert len(record.trials) == 6 and {trial.state for trial in record.trials.values()} <= {"finished", "pruned"}
    assert "search@vae" in call(project, "dvc", "repro", "search/dvc.yaml:search@vae"), "said to be up to date"
    assert len(record_of(project).events) == len(record.events)

    best = yaml.safe_load((project / "out/tune/vae/best.yaml").read_text())["best"][0]
    commit(project, "search")
    shown = call(project, "python", "-m", "pipeline", "adopt", "vae")
    assert f"+    lr: {best['params']['lr']}" in shown
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["search"]["vae"]["trials"] = 7
    write_params(project, params)
    output = call(project, "dvc", "repro")
    assert "train@vae" in stages_that_ran(output) and "search" not in " ".join(stages_that_ran(output))
    assert "this very training is finished: publishing" in output
    train = json.loads((project / "out/runs/vae/train.json").read_text())
    assert train["params"]["lr"] == best["params"]["lr"] and train["seen"] == best["images"]


def test_a_search_whose_driver_and_worker_are_killed_ends_as_asked(project: Path) -> None:
    with_search(project, images=12_800, scheduler="none", trials=4)
    for stage in ("code", "normalize", "extractors"):
        call(project, "dvc", "repro", stage)
    process = start(project)
    wait_for(lambda: has(project, "ended", 1))
    process.kill()
    process.wait()
    before = record_of(project)

    process = start(project)
    parent = psutil.Process(process.pid)

    wait_for(lambda: len(record_of(project).events) > len(before.events) + 2)
    os.kill(wait_for(lambda: actors(parent))[0], signal.SIGKILL)
    assert process.wait(timeout=300) == 0, (project / "search.log").read_text()
    after = record_of(project)
    assert len(after.trials) == 4 and all(trial.state == "finished" for trial in after.trials.values())
    assert all(len(trial.values) == 3 for trial in after.trials.values())
    assert all(after.trials[n].params == trial.params for n, trial in before.trials.items())
    assert sum(event["event"] == "ended" for event in after.events) == 4, "no finished trial is repeated"


def test_trials_of_two_workers_one_of_which_is_killed_are_the_runs_own(project: Path) -> None:
    with_search(project, images=25_600, scheduler="none", rungs=[6000], trials=2, cpus_per_trial=1)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["cluster"] = {**params.get("cluster", {}), "workers": 2}
    write_params(project, params)
    for stage in ("code", "normalize", "extractors"):
        call(project, "dvc", "repro", stage)
    process = start(project)
    parent = psutil.Process(process.pid)
    wait_for(lambda: has(project, "value", 1))
    os.kill(wait_for(lambda: actors(parent, "ray::Helper"))[0], signal.SIGKILL)
    assert process.wait(timeout=300) == 0, (project / "search.log").read_text()
    assert "its process died; it goes on" in (project / "search.log").read_text()
    record = record_of(project)
    assert [(trial.state, len(trial.values)) for trial in record.trials.values()] == [("finished", 2)] * 2
    commit(project, "search")
    call(project, "python", "-m", "pipeline", "adopt", "vae")
    output = call(project, "dvc", "repro", "train@vae")
    assert "this very training is finished: publishing" in output
    train = json.loads((project / "out/runs/vae/train.json").read_text())
    assert train["workers"] == [{"from": 0, "workers": 2}]

    params["cluster"]["workers"] = 64
    params["runs"]["vae"]["batch_size"] = 64
    write_params(project, params)
    (project / "search.log").unlink()
    assert start(project).wait(timeout=60) != 0
    assert "for each of 64 workers, but this machine has" in (project / "search.log").read_text()


def told_of_population(record: Record) -> list[Any]:
    """What a record says of its members, but when and how fast."""
    return [
        (trial.number, trial.key, trial.values, trial.handovers, trial.params, trial.state)
        for trial in record.trials.values()
    ]


def test_a_population_that_is_killed_hands_over_the_same_checkpoints(project: Path) -> None:
    """Whole, then the same once more with its driver, a worker and again its driver killed."""
    pbt = {"scheduler": "pbt", "searcher": "random", "rungs": [2000, 4000, 6000, 8000, 10_000], "trials": 5}
    with_search(project, images=12_800, **pbt)
    for stage in ("code", "normalize", "extractors"):
        call(project, "dvc", "repro", stage)
    assert start(project).wait(timeout=300) == 0, (project / "search.log").read_text()
    whole = record_of(project)
    handed = [handed for trial in whole.trials.values() for handed in trial.handovers]
    assert len(handed) >= 3 and all(trial.state == "finished" for trial in whole.trials.values())
    best = yaml.safe_load((project / "out/tune/vae/best.yaml").read_text())["best"][0]
    weights = (project / f"out/tune/vae/weights/trial-{best['trial']}.safetensors").read_bytes()
    params = (project / "params.yaml").read_text()
    shown = call(project, "python", "-m", "pipeline", "adopt", "vae")
    (project / "params.yaml").write_text(params)
    assert ("trains anew" in shown) == ("schedule" in best) and f"trial-{best['trial']}.safetensors" in shown
    shutil.rmtree(project / ".genloom")
    process = start(project)
    wait_for(lambda: has(project, "value", 7))
    process.kill()
    process.wait()
    process = start(project)
    parent = psutil.Process(process.pid)
    wait_for(lambda: has(project, "handed", 1))
    os.kill(wait_for(lambda: actors(parent, "ray::Player"))[0], signal.SIGKILL)
    wait_for(lambda: has(project, "value", 17))
    process.kill()
    process.wait()
    assert start(project).wait(timeout=300) == 0, (project / "search.log").read_text()
    assert told_of_population(record_of(project)) == told_of_population(whole)
    assert (project / f"out/tune/vae/weights/trial-{best['trial']}.safetensors").read_bytes() == weights


def test_trials_that_fail_or_diverge_do_not_stop_the_search_and_a_signal_does(project: Path) -> None:
    # Each choice fits by itself; a scale and a Bernoulli likelihood do not fit together.
    space = {"lr": {"choice": [0.001, 1e6]}, "likelihood": {"choice": ["gaussian", "bernoulli"]}}
    space["scale"] = {"choice": [None, 0.1]}
    with_search(project, space=space, searcher="grid", trials=8, scheduler="none", rungs=[], objective="seconds")
    for stage in ("code", "normalize", "extractors"):
        call(project, "dvc", "repro", stage)
    process = start(project)
    wait_for(lambda: has(project, "ended", 1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    assert "the same command goes on from it" in (project / "search.log").read_text()
    known = len([trial for trial in record_of(project).trials.values() if trial.state])
    assert known < 8
    assert start(project).wait(timeout=300) == 0, (project / "search.log").read_text()
    trials = record_of(project).trials.values()
    states = [trial.state for trial in trials]
    assert len(states) == 8 and {"finished", "failed", "diverged"} == set(states)
    failed = [trial for trial in trials if trial.state == "failed"]
    assert all(trial.params["likelihood"] == "bernoulli" and "scale" in trial.reason for trial in failed)
    assert all(trial.params["lr"] == 1e6 for trial in trials if trial.state == "diverged")
