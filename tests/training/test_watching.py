"""A training that is watched: what it says, where it stops, and which state it keeps, the same after any detour."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_job import job, train_on, trained_here, weights

from pipeline.config import Cluster
from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.inference.weights import load_tensors
from pipeline.training.job import Job, Row
from pipeline.training.outcome import Outcome, next_goal, outcome_of
from pipeline.training.publish import Published, RunInfo, publish
from pipeline.training.trainer import train
from pipeline.training.watching import best_look
from pipeline.watch.measures import frechet_pixels
from pipeline.watch.warnings import collapse

IMAGES = 320
CADENCES = {"log_every": 64, "snapshot_every": 320, "checkpoint_every": 10_000, "watch_every": 64}


def work(folder: Path, images: int = IMAGES, **settings: Any) -> Job:
    made = job(folder)
    return replace(made, run=replace(made.run, images=images, **(CADENCES | settings)))


def sgd(made: Job) -> Job:
    """Adam would blow up the rounding of the smallest gradients: sums of two workers are in another order."""
    return replace(made, method=replace(made.method, optimizer="sgd", lr=1e-2))  # type: ignore[type-var]


def trained(made: Job) -> Published:
    """As the train stage does, in this process."""
    train_on(Cluster(workers=0), made)
    return published(made)


def published(made: Job) -> Published:
    out = Path(made.store).parent / "out"
    return publish(RunInfo(name="toy", key="key", params={}), made, open_dataset(Path(made.data)), out)


def train_json(result: Published) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((result.folder / "train.json").read_text())
    return content


def said(result: Published) -> list[tuple[int, dict[str, float], int]]:
    return [(row["seen"], row.get("watched", {}), len(row.get("warnings", ()))) for row in result.history]


def tensors(result: Published) -> dict[str, torch.Tensor]:
    return load_tensors(result.folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a GAN does is a collapse that is sure at the second look."""
    monkeypatch.setattr(collapse, "ALIKE", 1e9)
    monkeypatch.setattr(collapse, "IMAGES", 0)


@pytest.fixture
def early_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The farther from real images, the better: so the best look is an early one."""
    monkeypatch.setattr(frechet_pixels, "MEASURE", replace(frechet_pixels.MEASURE, better="higher"))


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    watched, unwatched = (trained_here(work(tmp_path / str(n), watch_every=n)) for n in (64, 0))
    assert same(watched, unwatched)
    history = work(tmp_path / "0", watch_every=0).checkpoints.load(IMAGES, torch.device("cpu"))["history"]
    assert all("watched" not in row for row in history)


def test_looks_fall_on_their_cadence_and_at_the_end_and_stand_in_the_history(tmp_path: Path) -> None:
    result = trained(work(tmp_path, watch_every=128))
    assert [row["seen"] for row in result.history if "watched" in row] == [128, 256, 320]
    with (result.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, kept in zip(rows, result.history, strict=True):
        for name in ("diversity", "frechet_pixels", "critic_auc"):
            cell = row[f"watched/{name}"]
            assert (cell == "") if "watched" not in kept else (float(cell) == kept["watched"][name])
    facts = train_json(result)
    assert (facts["seen"], facts["trained"], facts["stopped"], facts["warnings"]) == (320, 320, None, [])


def test_an_interrupted_training_sees_the_same(tmp_path: Path) -> None:
    whole = trained(work(tmp_path / "whole"))
    train(work(tmp_path / "cut", checkpoint_every=64), World(), lambda rows: None, stop=lambda: True)
    cut = trained(work(tmp_path / "cut"))
    assert said(cut) == said(whole)


@pytest.mark.parametrize("smaller", [192, 160])
def test_the_look_at_the_end_of_a_smaller_budget_is_none_of_a_larger_one(tmp_path: Path, smaller: int) -> None:
    whole = trained(work(tmp_path / "whole", watch_every=128))
    trained(work(tmp_path / "grown", smaller, watch_every=128))
    assert said(trained(work(tmp_path / "grown", watch_every=128))) == said(whole)


def test_a_smaller_budget_that_is_published_from_a_larger_training_has_its_last_look(tmp_path: Path) -> None:
    direct = trained(work(tmp_path / "direct", 256, watch_every=192))
    trained_here(work(tmp_path / "both", watch_every=192, checkpoint_every=64))
    assert said(published(work(tmp_path / "both", 256, watch_every=192))) == said(direct)


@pytest.mark.usefixtures("warned")
def test_a_training_stops_on_a_warning_and_goes_on_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopping, free = work(tmp_path / "a", stop_on=("divergence", "collapse")), work(tmp_path / "a")
    first = trained(stopping)
    facts = train_json(first)
    assert (first.seen, facts["trained"], facts["stopped"]["kind"], facts["stopped"]["said"]) == (
        128,
        128,
        "collapse",
        128,
    )
    assert facts["warnings"] == [facts["stopped"]] and "collapse since 64 images" in facts["stopped"]["message"]
    with caplog.at_level(logging.INFO, logger="pipeline"):
        assert same(tensors(trained(stopping)), tensors(first))
    assert "this very training is finished" in caplog.text and stopping.checkpoints.existing() == [128]
    direct = trained(work(tmp_path / "b"))
    grown = trained(free)
    assert same(tensors(grown), tensors(direct)) and said(grown) == said(direct)
    assert train_json(grown)["stopped"] is None and len(train_json(grown)["warnings"]) == 1


@pytest.mark.usefixtures("warned")
def test_a_finished_training_that_should_have_stopped_is_published_from_there(tmp_path: Path) -> None:
    stopped = trained(work(tmp_path / "a", stop_on=("collapse",)))
    trained(work(tmp_path / "b"))
    later = work(tmp_path / "b", stop_on=("collapse",))
    assert later.checkpoints.existing() == [320] and next_goal(later) == 128
    again = trained(later)
    assert same(tensors(again), tensors(stopped)) and said(again) == said(stopped)
    assert set(later.checkpoints.existing()) == {128, 320}, "the whole training is lost"


@pytest.mark.usefixtures("warned")
def test_other_warnings_stop_nothing(tmp_path: Path) -> None:
    result = trained(work(tmp_path, stop_on=("divergence",)))
    assert result.seen == IMAGES and [alarm["kind"] for alarm in train_json(result)["warnings"]] == ["collapse"]


@pytest.mark.usefixtures("early_is_best")
def test_the_best_state_is_kept_and_published(tmp_path: Path) -> None:
    """Among others while it trains; made again where it was not kept; and the last one is still there."""
    best = work(tmp_path / "a", keep="frechet_pixels")
    result = trained(best)
    place = best_look(result.history, "frechet_pixels")
    assert place is not None and place < IMAGES and place in best.checkpoints.existing()
    facts = train_json(result)
    assert (facts["seen"], facts["trained"], len(result.history)) == (place, IMAGES, IMAGES // 64)
    direct = trained(work(tmp_path / "direct", place))
    assert same(tensors(result), tensors(direct))

    last = trained(work(tmp_path / "b"))
    assert work(tmp_path / "b").checkpoints.existing() == [IMAGES]
    later = trained(work(tmp_path / "b", keep="frechet_pixels"))
    assert same(tensors(later), tensors(direct)) and said(later) == said(last)
    assert next_goal(work(tmp_path / "b")) is None
    assert same(tensors(published(work(tmp_path / "b"))), tensors(last))


@pytest.mark.usefixtures("early_is_best")
def test_the_best_of_a_larger_budget_is_found_again(tmp_path: Path) -> None:
    keeping = {"keep": "frechet_pixels", "checkpoint_every": 64}
    trained(work(tmp_path / "grown", 192, **keeping))
    grown = trained(work(tmp_path / "grown", **keeping))
    direct = trained(work(tmp_path / "direct", **keeping))
    assert same(tensors(grown), tensors(direct)) and grown.seen == direct.seen < IMAGES


@pytest.mark.usefixtures("early_is_best", "warned")
def test_the_best_before_a_stop(tmp_path: Path) -> None:
    made = work(tmp_path, keep="frechet_pixels", stop_on=("collapse",))
    result = trained(made)
    outcome = outcome_of(made)
    assert isinstance(outcome, Outcome) and (outcome.end, outcome.kept) == (128, result.seen) and result.seen <= 128


def test_the_best_look_is_the_first_of_equal_ones_and_none_where_nothing_was_seen() -> None:
    def row(seen: int, value: float | None = None) -> Row:
        made: Row = {"seen": seen, "time": 0, "values": {}, "snapshot": None}
        return made if value is None else {**made, "watched": {"frechet_pixels": value}}

    assert best_look([row(1, 3.0), row(2, 1.0), row(3), row(4, 1.0)], "frechet_pixels") == 2
    assert best_look([row(1)], "frechet_pixels") is None


def test_a_checkpoint_that_cannot_be_made_ends_in_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No loop of trainings."""
    monkeypatch.setattr("pipeline.cluster.launch._train_to", lambda job, about: None)
    train_on(Cluster(workers=0), work(tmp_path))
    with pytest.raises(UserError, match="no whole checkpoint at 320 images"):
        published(work(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("early_is_best")
def test_two_workers_keep_and_see_what_one_does(tmp_path: Path) -> None:
    """Rank 0 looks and decides for all. The fixture reaches no worker, so the driver has the best state made again."""
    settings = {"keep": "frechet_pixels"}
    one, two = (sgd(work(tmp_path / name, **settings)) for name in ("one", "two"))
    first = trained(one)
    train_on(Cluster(workers=2), two)
    second = published(two)
    for (seen, here, _), (at, there, _) in zip(said(first), said(second), strict=True):
        assert seen == at and here == pytest.approx(there, rel=1e-3)
    assert first.seen == second.seen
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-5)
