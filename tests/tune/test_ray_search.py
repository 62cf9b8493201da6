"""What Ray Tune asks of a search, without a cluster: the searcher's trials, and schedulers that remember the record."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pipeline.config import Cluster
from pipeline.config.search import Search
from pipeline.errors import UserError
from pipeline.tune.chooser import Chooser
from pipeline.tune.driver import NEWS, room_of, tunes_environment
from pipeline.tune.ray_search import Remembering, Scheduler, rung_time, scheduler_of, told
from pipeline.tune.record import Record
from pipeline.tune.trial import Report

IMAGES = [100, 200, 300]


def search(scheduler: str = "asha", trials: int = 30, **settings: Any) -> Search:
    space = {"a": {"uniform": [0, 1]}}
    given = {"space": space, "objective": "x", "scheduler": scheduler, "trials": trials, "searcher": "random"}
    return Search(**given | {"rungs": (100, 200)} | settings)


class OfRay:
    """A trial of Ray's, as far as schedulers look at it."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config, self.status = f"ray-{number}", {"trial": number}, "RUNNING"


def value(number: int, rung: int) -> float:
    return random.Random(number).random() + 0.1 * random.Random(f"{number} {rung}").random() - 0.2 * rung


def judged(settings: Search, folder: Path, numbers: list[int], die_at: tuple[int, int] | None = None) -> dict[int, int]:
    """Runs trials one after another, as Ray would; returns by number how many rungs each reached."""
    with Record.open(folder, "toy") as record:
        scheduler = scheduler_of(settings, "lower", record, len(IMAGES))
        for number in numbers:
            if number not in record.trials:
                record.begin({"a": 0.5}, "key")
            trial = OfRay(number)
            known = record.trials[number]
            if known.state is None:
                scheduler.on_trial_add(None, trial)
                for rung in range(len(known.values), len(IMAGES)):
                    if die_at == (number, rung):
                        return {}
                    record.value(number, IMAGES[rung], {"x": value(number, rung)}, 1.0)
                    result = told(settings, rung, record.trials[number])
                    if rung + 1 < len(IMAGES) and scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                        record.end(number, "pruned")
                        break
                else:
                    record.end(number, "finished")
                scheduler.on_trial_complete(None, trial, result)
        return {number: len(known.values) for number, known in record.trials.items()}


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_scheduler_judges_after_a_restart_as_it_would_have(tmp_path: Path, kind: str) -> None:
    numbers = list(range(24))
    whole = judged(search(kind), tmp_path / "whole", numbers)
    assert {1, 3} <= set(whole.values()), "some are ended early, some are not"
    for die_at in ((9, 1), (16, 0), (20, 2)):
        judged(search(kind), tmp_path / "killed", numbers, die_at)
    assert judged(search(kind), tmp_path / "killed", numbers) == whole


def test_asha_keeps_the_best_share_at_every_rung(tmp_path: Path) -> None:
    settings = search("asha", reduction=3)
    assert [rung_time(settings, rung) for rung in range(3)] == [1, 3, 9]
    with Record.open(tmp_path, "toy") as record:
        scheduler = scheduler_of(settings, "lower", record, 3)
        assert isinstance(scheduler, Scheduler)
        places = [place for place, _ in scheduler.inner._brackets[0]._rungs]
        assert places == [9, 3, 1], "our rungs are ASHA's"
    reached = list(judged(settings, tmp_path, list(range(60))).values())
    assert 0.2 < sum(rungs > 1 for rungs in reached) / 60 < 0.55, "about a third, more at first"


def test_none_ends_nothing(tmp_path: Path) -> None:
    assert set(judged(search("none"), tmp_path, list(range(10))).values()) == {3}


class Asked:
    """A searcher with its record, and what it said of trials that ended."""

    def __init__(self, record: Record, trials: int = 3, concurrent: int = 2) -> None:
        settings, self.ended = search("none", trials), list[int]()
        chooser = Chooser(settings, ["lower"])
        chooser.replay(record)
        self.may_begin = True
        self.searcher = Remembering(
            settings,
            record,
            chooser,
            concurrent,
            lambda values: "key",
            lambda trial: self.ended.append(trial.number),
            lambda: self.may_begin,
            1,
        )


def done(state: Any = None, images: int = 300, **more: Any) -> dict[str, Any]:
    return {"report": Report(images=images, values={"x": 1.0}, seconds=2.0, state=state, **more)}


def test_ray_gets_trials_while_there_is_room_and_budget(tmp_path: Path) -> None:
    with Record.open(tmp_path, "toy") as record:
        asked = Asked(record)
        give = asked.searcher.suggest
        assert [give(name)["trial"] for name in "ab"] == [0, 1]
        assert give("c") is None, "no room"
        asked.searcher.on_trial_result("a", done(images=100))
        asked.searcher.on_trial_complete("a", done("finished"))
        assert asked.ended == [0] and record.trials[0].values == {100: {"x": 1.0}, 300: {"x": 1.0}}
        assert give("c")["trial"] == 2
        asked.searcher.on_trial_complete("b", done(images=100))
        assert record.trials[1].state == "pruned" and "by none" in record.trials[1].reason
        assert give("d") is None, "the last one runs, and may have to begin again"
        asked.searcher.on_trial_complete("c", done("finished"))
        assert give("d") == Searcher.FINISHED


def test_a_trial_that_pauses_or_dies_goes_on_and_not_for_ever(tmp_path: Path) -> None:
    with Record.open(tmp_path, "toy") as record:
        asked = Asked(record, trials=1)
        first = asked.searcher.suggest("a")
        asked.searcher.on_trial_result("a", done(images=100))
        asked.searcher.on_trial_complete("a", error=True)
        again = asked.searcher.suggest("b")
        assert again["values"] == first["values"] and (first["rungs"], again["rungs"]) == (0, 1)
        asked.may_begin = False
        asked.searcher.on_trial_complete("b", {"report": Report(images=150, paused=True)})
        assert record.trials[0].state is None and asked.searcher.suggest("c") == Searcher.FINISHED
        later = Asked(record, trials=1)
        assert later.searcher.suggest("d")["trial"] == 0
        for name in ("d", "e"):
            later.searcher.on_trial_complete(name, error=True)
            later.searcher.suggest("e")
        assert record.trials[0].state == "failed" and "died 2 times" in record.trials[0].reason


@pytest.mark.parametrize(
    ("workers", "each", "concurrent", "expected"),
    [
        (1, {}, None, (1, 9)),
        (0, {}, None, (1, 9)),
        (2, {}, None, (2, 4)),
        (2, {}, 3, (2, 3)),
        ([2, 4], {}, None, (4, 2)),
        ([2, 16], {}, None, (9, 1)),
        (2, {"cpus_per_trial": 3}, None, (2, 1)),
        (1, {"gpus_per_trial": 0.5}, None, (1, 4)),
        (2, {"gpus_per_trial": 1}, None, (2, 1)),
    ],
)
def test_room_is_what_the_nodes_have_for_all_workers_of_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    workers: Any,
    each: dict[str, Any],
    concurrent: int | None,
    expected: tuple[int, int],
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 5.0}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    given = search("none", concurrent=concurrent, **{"gpus_per_trial": 0, **each})
    found = room_of("vae", given, Cluster(workers=workers if isinstance(workers, int) else tuple(workers)), {})
    assert (found.share.workers, found.concurrent) == expected


@pytest.mark.parametrize(
    ("workers", "each", "message"),
    [
        (10, {}, "a trial takes 10 processes with 1 CPUs each, and the cluster has room for 9"),
        (2, {"cpus_per_trial": 5}, "a trial takes 2 processes with 5 CPUs each, and the cluster has room for 1"),
        (1, {"cpus_per_trial": 6}, "search.vae.cpus_per_trial: a trial asks for 6, and no machine of the cluster has"),
        (1, {"gpus_per_trial": 3}, "search.vae.gpus_per_trial: a trial asks for 3"),
    ],
)
def test_what_no_node_can_ever_give_is_said(
    monkeypatch: pytest.MonkeyPatch, workers: int, each: dict[str, Any], message: str
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 5.0}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    with pytest.raises(UserError) as caught:
        room_of("vae", search("none", **{"gpus_per_trial": 0, **each}), Cluster(workers=workers), {})
    assert message in str(caught.value)


def test_rays_variables_are_set_for_a_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_event_stats", "1")
    before = dict(os.environ)
    with tunes_environment(Cluster()):
        found = dict(os.environ)
    assert found["RAY_event_stats"] == "1", "what the user has set"
    assert found["RAY_enable_metrics_collection"] == "0" and found["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert not set(NEWS) & found.keys()
    with tunes_environment(Cluster(address="10.0.0.1:6379", workers=1)):
        assert "RAY_enable_metrics_collection" not in os.environ
        assert "RAY_worker_niceness" not in os.environ and "TUNE_DISABLE_SIGINT_HANDLER" in os.environ
    assert dict(os.environ) == before
