"""All trainings at once: as many as there is room for, in an order that their beginnings allow, each by itself."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.together import Room, Training, refuse_failures, room, train_together, trainings
from pipeline.config import Cluster, Data, Evaluate, Params, Render, Tracking
from pipeline.errors import UserError
from pipeline.tracking.journal import Journal

# Says where its journal is, works for a while, and ends as its run's name says.
CHILD = """
import json, pathlib, sys, time
folder, run = pathlib.Path(sys.argv[1]), sys.argv[2]
print(json.dumps({"journal": str(folder / run), "total": 100}), flush=True)
with (folder / "log").open("a") as log: log.write(f"{run} begins\\n")
for _ in range(int(sys.argv[3])): time.sleep(0.1)
with (folder / "log").open("a") as log: log.write(f"{run} ends\\n")
if run.startswith("bad"): sys.exit("error: params.yaml: runs.bad.lr: too high.")
"""


@dataclass(frozen=True)
class Pretended(Room):
    folder: Path = Path()
    tenths: int = 2

    def command(self, run: str, seed: int) -> list[str]:
        return [sys.executable, "-c", CHILD, str(self.folder), f"{run}{seed}", str(self.tenths)]


def params(**runs: dict[str, Any]) -> Params:
    named = {name: {"method": "vae", "init_from": "scratch", **run} for name, run in runs.items()}
    evaluate = Evaluate(extractors=["efficientnet_lite0"])
    others: dict[str, Any] = {"data": Data(), "render": Render(), "tracking": Tracking(), "evaluate": evaluate}
    return Params(runs=named, cluster=Cluster(), **others)


def run_all(found: Sequence[Training], folder: Path, slots: int, **other: Any) -> tuple[list[str], list[str]]:
    """What the processes wrote, and which runs were published."""
    published: list[str] = []
    train_together(found, Pretended(slots, 0, 1, folder=folder), published.append, lambda now: None, **other)
    return (folder / "log").read_text().splitlines(), published


def test_each_seed_is_a_training_and_a_run_comes_after_what_it_begins_from() -> None:
    given = params(tuned={"init_from": "runs/base", "seeds": [3, 4]}, base={"seed": 7}, other={})
    found = trainings(given, [])
    assert [(one.name, one.seed, one.after) for one in found] == [
        ("base", 7, None),
        ("tuned seed 3", 3, "base"),
        ("tuned seed 4", 4, "base"),
        ("other", 0, None),
    ]
    assert [one.run for one in trainings(given, ["tuned"])] == ["base", "tuned", "tuned"]
    with pytest.raises(UserError, match="Did you mean 'other'"):
        trainings(given, ["othre"])


@pytest.mark.parametrize("slots", [1, 2])
def test_no_more_run_at_a_time_than_there_is_room_for(tmp_path: Path, slots: int) -> None:
    found = trainings(params(a={}, b={}, c={}), [])
    log, _ = run_all(found, tmp_path, slots)
    running, most = 0, 0
    for line in log:
        running += 1 if line.endswith("begins") else -1
        most = max(most, running)
    assert most == slots and running == 0 and len(log) == 6
    assert all((one.state, one.seen, one.total) == ("trained", 100, 100) for one in found)


def test_a_run_waits_until_what_it_begins_from_is_published_once(tmp_path: Path) -> None:
    after = {"init_from": "runs/base"}
    found = trainings(params(base={"seeds": [0, 1]}, one=after, two=after), [])
    log, published = run_all(found, tmp_path, 4)
    assert published == ["base"]
    begins = {line.split()[0]: place for place, line in enumerate(log) if line.endswith("begins")}
    ends = {line.split()[0]: place for place, line in enumerate(log) if line.endswith("ends")}
    assert max(ends["base0"], ends["base1"]) < min(begins["one0"], begins["two0"])


def test_a_failing_run_hinders_only_what_begins_from_it(tmp_path: Path) -> None:
    found = trainings(params(bad={}, lost={"init_from": "runs/bad"}, further={"init_from": "runs/lost"}, good={}), [])
    _, published = run_all(found, tmp_path, 2)
    states = {one.run: one.state for one in found}
    assert states == {"bad": "failed", "lost": "left out", "further": "left out", "good": "trained"}
    assert published == []
    with pytest.raises(UserError) as caught:
        refuse_failures(found)
    assert caught.value.problems == [
        "bad: params.yaml: runs.bad.lr: too high.",
        "lost: it begins from bad, which is not trained",
        "further: it begins from lost, which is not trained",
    ]


def test_asked_to_stop_it_starts_nothing_more_and_ends_what_runs(tmp_path: Path) -> None:
    found = trainings(params(a={}, b={}), [])
    begun = time.monotonic()
    train_together(
        found,
        Pretended(1, 0, 1, folder=tmp_path, tenths=300),
        lambda run: None,
        lambda now: None,
        lambda: (tmp_path / "log").exists(),
    )
    assert time.monotonic() - begun < 20
    assert [one.state for one in found] == ["stopped", "waiting"]


def test_progress_is_read_from_the_journal_without_what_was_there_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal.open(tmp_path) as journal:
        journal.start(name="a", key="k", params={}, tags={})
        journal.metrics({"images_per_second": 1.0}, step=900, once=True, time=5)
    training = Training(run="a", seed=0, several=False, after=None)
    announced = json.dumps({"journal": str(tmp_path), "total": 1000})
    training.follow(announced)
    assert training.state == "waiting", "half a line says nothing"
    training.follow(announced + "\n")
    assert (training.state, training.seen, training.speed, training.total) == ("training", 0, None, 1000)
    with Journal.open(tmp_path) as journal:
        journal.metrics({"images_per_second": 20.0}, step=400, once=True)
        journal.tags({"warning.collapse": "samples are alike."})
    with caplog.at_level("WARNING", "pipeline"):
        training.follow(announced + "\n")
    assert (training.seen, training.speed) == (400, 20.0)
    assert "a: samples are alike." in caplog.text


def test_room_on_one_machine_is_a_share_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for cluster, count, jobs, expected in (
        (Cluster(), 3, None, (3, 0, 2)),
        (Cluster(), 20, None, (8, 0, 1)),
        (Cluster(), 20, 2, (2, 0, 4)),
        (Cluster(cpus_per_worker=4), 20, None, (2, 0, 4)),
        (Cluster(workers=0), 1, None, (1, 0, 8)),
    ):
        with room(cluster, count, jobs) as found:
            assert (found.slots, found.workers, found.cpus) == expected
            assert found.environment == {"OMP_NUM_THREADS": str(found.cpus)}


def test_room_on_a_cluster_is_what_its_cpus_and_gpus_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"CPU": 16.0, "GPU": 4.0}
    monkeypatch.setattr("pipeline.cluster.connect.connect", lambda cluster: nullcontext(resources))
    for cluster, count, jobs, expected in (
        (Cluster(address="a:1", workers=1), 20, None, (4, 1, 4)),
        (Cluster(address="a:1", workers=2), 20, None, (2, 2, 4)),
        (Cluster(address="a:1", workers=1, gpus_per_worker=0.5), 20, None, (8, 1, 2)),
        (Cluster(address="a:1", workers=1, gpus_per_worker=0), 20, None, (16, 1, 1)),
        (Cluster(address="a:1", workers=1), 3, 2, (2, 1, 8)),
    ):
        with room(cluster, count, jobs) as found:
            assert (found.slots, found.workers, found.cpus) == expected
            assert found.address == "a:1" and found.environment == {}
    with (
        pytest.raises(UserError, match=r"cluster\.gpus_per_worker"),
        room(Cluster(address="a:1", workers=1, gpus_per_worker=5), 1, None),
    ):
        pass
