"""A checkpoint belongs to what decides the state: other budgets and cadences go on from it, bit for bit."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_job import job, train_on, trained_here

from pipeline.config import Cluster, Run, Tracking
from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.dependencies.key import TrainingKey
from pipeline.errors import UserError
from pipeline.inference.weights import load_tensors
from pipeline.training.initial import initial_weights
from pipeline.training.job import Job, Row
from pipeline.training.publish import Published, RunInfo, publish
from pipeline.training.trainer import train

CADENCES = {"log_every": 64, "snapshot_every": 128, "checkpoint_every": 64}


def work(folder: Path, images: int, **settings: Any) -> Job:
    made = job(folder)
    return replace(made, run=replace(made.run, images=images, **(CADENCES | settings)))


def published(made: Job, folder: Path) -> Published:
    return publish(RunInfo(name="toy", key="key", params={}), made, open_dataset(Path(made.data)), folder)


def trained(folder: Path, *budgets: int, **settings: Any) -> Published:
    """One after the other in the same place; the last one is published."""
    for images in budgets:
        trained_here(work(folder, images, **settings))
    return published(work(folder, budgets[-1], **settings), folder / "out")


def content(result: Published) -> dict[str, Any]:
    """All that a budget decides, and no time of day."""
    rows = [
        (row["seen"], row["snapshot"], {k: v for k, v in row["values"].items() if "per_second" not in k})
        for row in result.history
    ]
    pictures = {path.name: path.read_bytes() for path in (result.folder / "snapshots").iterdir()}
    return {
        "seen": result.seen,
        "rows": rows,
        "pictures": pictures,
        "weights": (result.folder / "weights.safetensors").read_bytes(),
    }


@pytest.mark.parametrize("smaller", [192, 160, 48, 256])
def test_a_larger_budget_goes_on_from_the_end_of_a_smaller_one(tmp_path: Path, smaller: int) -> None:
    """Also from one that ended within a log window, or between two snapshots."""
    whole = trained(tmp_path / "whole", 320)
    seen: list[list[Row]] = []
    trained_here(work(tmp_path / "grown", smaller))
    train(work(tmp_path / "grown", 320), World(), seen.append)
    new = [row["seen"] for rows in seen[1:] for row in rows]
    assert new and min(new) > smaller - 64, "it began at 0"
    grown = published(work(tmp_path / "grown", 320), tmp_path / "grown/out")
    assert content(grown) == content(whole)


@pytest.mark.parametrize("smaller", [256, 192, 80, 320])
def test_a_smaller_budget_is_published_or_trained_from_the_nearest_checkpoint(tmp_path: Path, smaller: int) -> None:
    direct = trained(tmp_path / "direct", smaller)
    larger = work(tmp_path / "both", 320)
    trained_here(larger)
    kept = larger.checkpoints.existing()
    again = trained(tmp_path / "both", smaller)
    assert content(again) == content(direct)
    assert set(larger.checkpoints.existing()) >= {kept[-1], again.seen}, "the larger budget's result is lost"


def test_the_ends_of_budgets_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, 64, 192, 640)
    assert work(tmp_path, 640).checkpoints.existing() == [64, 192, 576, 640]


def test_a_run_stopped_by_a_signal_is_published_where_it_stopped(tmp_path: Path) -> None:
    stopped = work(tmp_path / "stopped", 64_000)
    train(stopped, World(), lambda rows: None, stop=lambda: True)
    assert stopped.checkpoints.existing() == [64]
    direct = trained(tmp_path / "direct", 64)
    assert content(published(work(tmp_path / "stopped", 64), tmp_path / "out")) == content(direct)


def test_other_cadences_go_on_from_the_same_checkpoint(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 256)
    half = work(tmp_path / "half", 256)
    train(half, World(), lambda rows: None, stop=lambda: True)
    other = trained(tmp_path / "half", 256, log_every=128, snapshot_every=256, checkpoint_every=1000)
    assert content(other)["weights"] == content(whole)["weights"]
    assert [row["seen"] for row in other.history] == [64, 128, 256]


def test_what_is_not_there_cannot_be_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no whole checkpoint at 256 images"):
        published(work(tmp_path, 256), tmp_path / "out")


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_checkpoint_is_weights_to_begin_from(tmp_path: Path, named: str) -> None:
    result = trained(tmp_path, 64)
    checkpoint = tmp_path / f"store/checkpoints/{64:012d}"
    path = checkpoint if named == "folder" else checkpoint / "state.pt"
    with initial_weights("x", Run(method="dcgan", weights=str(path)), tmp_path, Tracking()) as weights:
        assert weights is not None
        found, wanted = load_tensors(weights), load_tensors(result.folder / "weights.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("name", "message"), [("state.pt", "not a readable checkpoint"), ("none", "is no file")])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, message: str) -> None:
    if name == "state.pt":
        (tmp_path / name).write_bytes(b"something else")
    run = Run(method="dcgan", weights=str(tmp_path / name))
    with (
        pytest.raises(UserError, match=rf"runs\.x\.weights: .*{message}"),
        initial_weights("x", run, tmp_path, Tracking()),
    ):
        pass


def test_a_training_says_why_it_does_not_use_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoints that are kept lie beyond a smaller budget; and what was made keeps the cadence it was made by."""
    keys = [TrainingKey({}, "", {}, result=CADENCES | {"snapshot_every": every}) for every in (128, 64)]
    with caplog.at_level(logging.INFO, logger="pipeline"):
        train_on(Cluster(workers=0), work(tmp_path, 256), keys[0])
        train_on(Cluster(workers=0), work(tmp_path, 32), keys[0])
        train_on(Cluster(workers=0), work(tmp_path, 320, snapshot_every=64), keys[1])
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.cluster.launch"]
    assert said == [
        "toy: starting at 0: of this training there are checkpoints at 192, 256 images, beyond its 32",
        "toy: what was made up to 256 images keeps snapshot_every: 128",
        "toy: going on from the checkpoint at 256 images",
    ]
