"""A trial is a run: stopped at its rungs, scored there, it leaves what an uninterrupted training leaves."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_search import project_task, task

from pipeline.core.world import World
from pipeline.evaluate.extractor import Extractor
from pipeline.evaluate.scoring import score_images
from pipeline.inference.generate import batches, samples, shuffled
from pipeline.inference.weights import Trained
from pipeline.training.outcome import next_goal, state_at
from pipeline.training.prepare import prepared
from pipeline.training.trainer import train
from pipeline.tune.record import Trial as Recorded
from pipeline.tune.results import best_trials
from pipeline.tune.trial import Task, Trial

VALUES = {"lr": 0.002, "beta": 1.0}


def through(trial: Trial) -> list[Any]:
    reports = [trial.advance()]
    while reports[-1].state is None and not reports[-1].paused:
        reports.append(trial.advance())
    trial.close()
    return reports


def content(of: Task, values: dict[str, Any]) -> dict[str, Any]:
    """What the last checkpoint of a training holds, without what differs from one machine to the next."""
    with prepared(of.name, of.with_values(values), out=of.out, scratch=of.scratch) as ready:
        assert next_goal(ready.job) is None, "dvc repro would publish it"
        found = ready.job.checkpoints.load(ready.job.finished_at, torch.device("cpu"))
    for row in found["history"]:
        row.pop("time")
        row["values"].pop("images_per_second", None)
    return found


def test_a_trial_leaves_what_a_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = project_task(tmp_path, monkeypatch)
    reports = through(Trial(of, VALUES))
    assert [report.images for report in reports] == [128, 384, 640]
    assert [report.state for report in reports] == [None, None, "finished"]
    assert [report.rung for report in reports] == [0, 1, 2]
    scores = [report.values["elbo_bits_per_dim"] for report in reports]
    assert all(2 < score < 12 for score in scores) and scores[0] > scores[2]

    whole = replace(of, scratch=tmp_path / "whole")
    with prepared("vae", whole.with_values(VALUES), out=whole.out, scratch=whole.scratch) as ready:
        train(ready.job, World(), lambda rows: None)
    ours, theirs = content(of, VALUES), content(whole, VALUES)
    assert ours["history"] == theirs["history"] and len(ours["history"]) == 5
    nets = ours["state"]["nets"]
    assert all(torch.equal(value, theirs["state"]["nets"][key]) for key, value in nets.items()) and nets


def test_a_trial_that_was_killed_is_neither_trained_nor_scored_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = project_task(tmp_path, monkeypatch)
    first = Trial(of, VALUES)
    known = [first.advance(), first.advance()]
    first.close()
    again = Trial(of, VALUES)
    monkeypatch.setattr("pipeline.tune.workers.train", _no_more)
    assert [again.advance(), again.advance()] == known
    assert again.advance().reason == "RuntimeError('trained')"


def _no_more(*arguments: Any) -> None:
    raise RuntimeError("trained")


def test_a_trial_that_is_told_to_stop_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = replace(project_task(tmp_path, monkeypatch, rungs=[]), deadline=time.time())
    report = Trial(of, VALUES).advance()
    assert report.paused and report.state is None and report.images == 128 and not report.values
    of.folder.mkdir(parents=True)
    of.stop_request.touch()
    assert Trial(replace(of, deadline=None), VALUES).advance().images == 256
    of.stop_request.unlink()
    assert Trial(task(tmp_path), VALUES).advance().state == "finished"
    assert len(content(of, VALUES)["history"]) == 5


def test_a_part_of_a_training_goes_on_where_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = project_task(tmp_path, monkeypatch, trial_images=200, rungs=[100])
    assert [report.images for report in through(Trial(of, VALUES))] == [128, 256]
    with prepared("vae", of.with_values(VALUES), out=of.out, scratch=of.scratch) as ready:
        assert ready.job.storage.newest() == 256 and next_goal(ready.job) == 640


def test_an_earlier_rung_is_scored_though_a_later_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = project_task(tmp_path, monkeypatch)
    with prepared("vae", of.with_values(VALUES), out=of.out, scratch=of.scratch) as ready:
        train(ready.job, World(), lambda rows: None)
    reports = through(Trial(of, VALUES))
    other = replace(of, scratch=tmp_path / "other")
    assert [r.values for r in reports] == [r.values for r in through(Trial(other, VALUES))]


def test_what_goes_wrong_is_the_trials_own_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = project_task(tmp_path, monkeypatch)
    diverged = Trial(of, {"lr": 1e6, "beta": 8.0}).advance()
    assert diverged.state == "diverged" and "finite" in diverged.reason
    monkeypatch.setattr("pipeline.tune.trial.Judge.score", lambda *_: {"elbo_bits_per_dim": math.nan})
    silent = Trial(of, VALUES).advance()
    assert silent.state == "diverged" and silent.reason == "elbo_bits_per_dim: not a finite number"
    assert silent.values == {}


def test_another_protocol_is_another_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = project_task(tmp_path, monkeypatch, rungs=[])
    first = Trial(of, VALUES).advance()
    other = project_task(tmp_path, monkeypatch, rungs=[], samples=10)
    second = Trial(other, VALUES).advance()
    assert first.values != second.values and other.folder != of.folder
    kept = sorted(path.name for path in Path(first_store(of)).glob("scores-*.json"))
    assert len(kept) == 2 and all(json.loads(Path(first_store(of), name).read_text()) for name in kept)
    assert of.objectives[0].shown(of.search) == "elbo_bits_per_dim_test16"


def first_store(of: Task) -> str:
    with prepared("vae", of.with_values(VALUES), out=of.out, scratch=of.scratch) as ready:
        return ready.job.store


def test_the_record_of_another_space_is_another_but_not_of_another_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project_task(tmp_path, monkeypatch).folder
    assert project_task(tmp_path, monkeypatch, trials=9, seconds=60.0).folder == folder
    assert project_task(tmp_path, monkeypatch, space={"lr": {"uniform": [0.1, 1]}}).folder != folder
    assert project_task(tmp_path, monkeypatch, run={"width": 9}).folder != folder


def test_the_front_of_several_objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = project_task(tmp_path, monkeypatch, objective=["elbo_bits_per_dim", "seconds"], rungs=[])
    trials = [Recorded(n, {}, "k", state="finished") for n in range(4)]
    for trial, values in zip(trials, [(3, 9), (2, 10), (3, 10), (4, 1)], strict=True):
        trial.values[640] = dict(zip(("elbo_bits_per_dim", "seconds"), values, strict=True))
    trials.append(Recorded(4, {}, "k", state="pruned", values={128: {"elbo_bits_per_dim": 0, "seconds": 0}}))
    assert [trial.number for trial in best_trials(trials, of.objectives)] == [1, 0, 3]
    assert [trial.number for trial in best_trials(trials, of.objectives[:1])] == [1]


def tiny_extractor() -> Extractor:
    """Four-pixel means: eight features of a picture."""

    def network(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images[:, :1].float() / 255, (4, 2)).flatten(1)
        return pooled, pooled

    return Extractor(
        name="efficientnet_lite0", weights_sha256="", resize="none", network=network, device=torch.device("cpu")
    )


def test_a_metric_is_that_of_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tune.objective.load_one", lambda *_: tiny_extractor())
    of = project_task(tmp_path, monkeypatch, objective="fid_efficientnet_lite0", rungs=[], samples=20)
    of = replace(of, search=replace(of.search, reference_samples=22))
    (report,) = through(Trial(of, VALUES))
    with prepared("vae", of.with_values(VALUES), out=of.out, scratch=of.scratch) as ready:
        content = ready.job.checkpoints.load(640, torch.device("cpu"))
        trained = Trained.of(ready.job.method, state_at(ready.job, ready.dataset, content["state"]), ready.dataset.spec)
    split = ready.dataset.splits["test"]
    like = batches(split, shuffled(24, 20, 0), seed=0, batch_size=20, device="cpu")
    real = split.images(shuffled(24, 22, 0).numpy())
    expected = score_images(torch.cat(list(samples(trained, like))), real, tiny_extractor())
    assert report.values == pytest.approx(expected, rel=1e-4)
    assert of.objectives[0].shown(of.search) == "fid_efficientnet_lite0_20_test22"
