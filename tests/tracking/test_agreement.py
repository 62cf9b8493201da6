"""MLflow says what the published files say, whichever way they came here."""

import json
import logging
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from journaled import DATASET, artifacts, client_of, in_mlflow, picture, points_in_mlflow, snapshot
from mlflow import MlflowClient
from mlflow_server import free_port

from pipeline.config import Cluster, Data, Evaluate, Params, Render, Tracking
from pipeline.errors import UserError
from pipeline.tracking.agreement import send_all_results, send_results, synchronize, update_journals
from pipeline.tracking.journal import Journal
from pipeline.tracking.references import RUNS, journal_folder
from pipeline.tracking.sender import ORIGIN, sync
from pipeline.tracking.shipped import is_synced
from pipeline.tracking.standing import SUPERSEDED
from pipeline.tracking.target import resolve

FID = "fid_small"


def params(tracking: Tracking | None = None) -> Params:
    return Params(
        data=Data(),
        runs={"a": {}},
        cluster=Cluster(),
        evaluate=Evaluate(extractors=["efficientnet_lite0"]),
        render=Render(),
        tracking=tracking or Tracking(),
    )


@pytest.fixture
def published(project: Path) -> Path:
    """A trained run in out/runs, whose training MLflow has from this machine."""
    folder = project / "out/runs/a"
    (folder / "snapshots").mkdir(parents=True)
    about: dict[str, Any] = {"run": "a", "key": "k" * 64, "params": {"lr": 0.1}, "dataset": DATASET, "seen": 64}
    about |= {"seconds": 2.0, "images_per_second": 32.0, "peak_memory_bytes": 1000}
    (folder / "train.json").write_text(json.dumps(about))
    (folder / "history.csv").write_text("seen,loss\n32,2.0\n64,1.5\n")
    for seen in (0, 64):
        picture(folder / f"snapshots/{seen:09d}.png", seen)
    with Journal.open(journal_folder(params(), "a", "k" * 64)) as opened:
        opened.start(name="a", key="k" * 64, params={"lr": 0.1}, tags={}, dataset=DATASET)
        opened.metrics({"loss": 2.0}, step=32, once=True)
        opened.metrics({"loss": 1.5}, step=64, once=True)
        opened.finish("FINISHED")
    sync(journal_folder(params(), "a", "k" * 64), Tracking())
    return folder


def evaluated(folder: Path, samples: int, **scores: float) -> None:
    (folder / "metrics.json").write_text(json.dumps(scores))
    (folder / "protocol.json").write_text(json.dumps({name: {"samples": samples} for name in scores}))


def found(tracking: Tracking | None = None) -> Any:
    return in_mlflow(resolve(tracking or Tracking()).uri)


def test_the_metric_that_stands_in_the_files_is_the_last_point_and_its_protocol_the_tag(published: Path) -> None:
    """100 samples, then 300, then 100 again, restored by DVC; and a metric that is no longer measured."""
    end = found().info.end_time
    for samples, scores in ((100, {FID: 940.4, "kid": 2.0}), (300, {FID: 956.7}), (100, {FID: 940.4})):
        evaluated(published, samples, **scores)
        send_results(RUNS / "a", params())
        assert found().data.metrics[FID] == scores[FID]
        assert json.loads(found().data.tags[f"protocol.{FID}"]) == {"samples": samples}
    assert found().data.tags["protocol.kid"] == SUPERSEDED
    assert (found().info.status, found().info.end_time) == ("FINISHED", end), "evaluation moved the training's end"
    values = [
        value for _, _, value in sorted(points_in_mlflow(resolve(Tracking()).uri, found())[FID], key=lambda p: p[1])
    ]
    assert values == [940.4, 956.7, 940.4]
    send_results(RUNS / "a", params())
    assert len(points_in_mlflow(resolve(Tracking()).uri, found())[FID]) == 3, "a repetition changes nothing"


def test_a_pulled_run_brings_its_looks_and_warnings(published: Path, project: Path) -> None:
    """To a server that does not know it, from the files alone; and a tag that somebody changed is put right."""
    warnings = [{"kind": "collapse", "since": 32, "said": 64, "message": "collapse since 32 images: alike."}]
    path = published / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"warnings": warnings}))
    (published / "history.csv").write_text("seen,loss,watched/diversity\n32,2.0,\n64,1.5,0.25\n")
    shutil.rmtree(project / ".genloom")
    elsewhere = Tracking(uri="sqlite:///elsewhere.db")
    for _ in range(2):
        send_all_results(params(elsewhere))
        run, uri = found(elsewhere), resolve(elsewhere).uri
        assert run.data.tags["warning.collapse"] == warnings[0]["message"]
        assert [(step, value) for step, _, value in points_in_mlflow(uri, run)["watched/diversity"]] == [(64, 0.25)]
        MlflowClient(uri).set_tag(run.info.run_id, "warning.collapse", "all is well")


def test_each_evaluation_is_kept_with_its_protocol(published: Path) -> None:
    import mlflow

    for samples in (100, 300):
        evaluated(published, samples, **{FID: float(samples)})
        send_results(RUNS / "a", params())
    client = mlflow.MlflowClient(resolve(Tracking()).uri)
    kept = [item.path for item in client.list_artifacts(found().info.run_id, "evaluations")]
    contents = [json.loads(Path(client.download_artifacts(found().info.run_id, path)).read_text()) for path in kept]
    assert sorted((c["metrics"][FID], c["protocol"][FID]["samples"]) for c in contents) == [(100.0, 100), (300.0, 300)]
    standing = found().data.tags["evaluation"]
    assert next(c for path, c in zip(kept, contents, strict=True) if standing in path)["metrics"][FID] == 300.0


def test_a_pulled_run_goes_on_in_its_own_mlflow_run(published: Path, project: Path) -> None:
    before = found()
    shutil.rmtree(project / ".genloom")
    evaluated(published, 100, **{FID: 940.4})
    assert update_journals(params()) == []
    send_all_results(params())
    after = found()
    assert after.info.run_id == before.info.run_id and after.data.metrics[FID] == 940.4
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    points = points_in_mlflow(resolve(Tracking()).uri, after)
    assert len(points["loss"]) == 2 and ORIGIN not in after.data.tags


def test_a_pulled_run_that_mlflow_does_not_have_is_made_of_its_files(published: Path, project: Path) -> None:
    shutil.rmtree(project / ".genloom")
    other = Tracking(uri="sqlite:///other.db")
    evaluated(published, 100, **{FID: 940.4})
    picture(published / "samples.png")
    send_results(RUNS / "a", params(other))
    made = found(other)
    assert made.data.tags[ORIGIN] == "published files" and made.info.status == "FINISHED"
    points = points_in_mlflow(resolve(other).uri, made)
    assert [(step, value) for step, _, value in points["loss"]] == [(32, 2.0), (64, 1.5)]
    assert made.data.metrics[FID] == 940.4 and made.data.metrics["cost/seconds"] == 2.0
    assert is_synced(journal_folder(params(), "a", "k" * 64), other)


def test_a_server_that_is_down_is_said_at_first_and_at_last_and_fails_nothing(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluated(published, 100, **{FID: 940.4})
    away = params(Tracking(uri=f"http://127.0.0.1:{free_port()}"))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        for _ in range(3):  # stages of a run
            send_results(RUNS / "a", away)
        send_all_results(away)  # the last stage
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert "(connection refused)" in record.getMessage() and "`genloom sync` sends" in record.getMessage()
        assert "\n" not in record.getMessage() and len(record.getMessage()) < 200
    with pytest.raises(UserError, match="can't be reached: connection refused"):
        list(synchronize(away))
    send_results(RUNS / "a", params())
    assert found().data.metrics[FID] == 940.4, "it was journaled all the same"


def test_a_server_that_says_nothing_is_waited_for_once(
    published: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    evaluated(published, 100, **{FID: 940.4})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = params(Tracking(uri=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with caplog.at_level(logging.WARNING, logger="pipeline"):
            send_results(RUNS / "a", away)
            began = time.monotonic()
            for _ in range(3):
                send_results(RUNS / "a", away)
    assert time.monotonic() - began < 0.8
    (record,) = caplog.records
    assert record.getMessage().endswith("can't be reached: no answer in time. `genloom sync` sends a later.")


@pytest.mark.parametrize("name", ["metrics.json", "protocol.json", "train.json"])
def test_a_damaged_file_is_said_and_sends_nothing(published: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(published, 100, **{FID: 940.4})
    (published / name).write_text("{")
    (problem,) = update_journals(params())
    assert name in problem and "dvc repro" in problem
    assert FID not in found().data.metrics


# ---- Several machines, one MLflow


class Machine:
    """A copy of the project with a journal folder of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self._enter = monkeypatch.chdir

    def clone(self, name: str, *, journals: bool = False) -> "Machine":
        """As `git clone` and `dvc pull` leave it."""
        other = Machine.__new__(Machine)
        other.folder, other._enter = self.folder.parent / name, self._enter
        shutil.copytree(self.folder / "out", other.folder / "out")
        if journals:
            shutil.copytree(self.folder / ".genloom", other.folder / ".genloom")
        return other

    def sync(self, tracking: Tracking) -> list[Any]:
        self._enter(self.folder)
        return list(synchronize(params(tracking)))

    def evaluate(self, tracking: Tracking, samples: int, **scores: float) -> None:
        self._enter(self.folder)
        evaluated(self.folder / "out/runs/a", samples, **scores)
        picture(self.folder / "out/runs/a/samples.png", samples % 256)
        send_results(RUNS / "a", params(tracking))


@pytest.fixture
def shared(published: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine, Tracking]:
    """The machine that trained and one that pulled, in folders of their own, with a database that both use."""
    for name in ("out", ".genloom"):
        shutil.move(project / name, project / "first" / name)
    first = Machine(monkeypatch, project / "first")
    return first, first.clone("second"), Tracking(uri=f"sqlite:///{project}/shared.db")


def standing(tracking: Tracking) -> tuple[float, int]:
    run = found(tracking)
    return run.data.metrics[FID], json.loads(run.data.tags[f"protocol.{FID}"])["samples"]


def pictures(tracking: Tracking) -> tuple[list[str], bytes]:
    """Names of the final samples in MLflow's series of images, and the picture of the stage render."""
    run, uri = found(tracking), resolve(tracking).uri
    names = [name for name in artifacts(uri, run) if name.startswith("images/final_samples") and name.endswith(".png")]
    return names, Path(client_of(uri).download_artifacts(run.info.run_id, "pictures/samples.png")).read_bytes()


def test_each_machine_s_sync_makes_mlflow_say_what_its_own_files_say(shared: tuple[Machine, Machine, Tracking]) -> None:
    first, second, tracking = shared
    first.evaluate(tracking, 100, **{FID: 940.4, "kid": 2.0})
    assert first.sync(tracking)[0].corrected == []
    for name in ("metrics.json", "protocol.json", "samples.png"):  # pulled
        shutil.copy(first.folder / "out/runs/a" / name, second.folder / "out/runs/a")
    second.sync(tracking)
    assert len(points_in_mlflow(resolve(tracking).uri, found(tracking))[FID]) == 1
    end = found(tracking).info.end_time
    second.evaluate(tracking, 300, **{FID: 956.7})
    assert standing(tracking) == (956.7, 300)
    assert found(tracking).data.tags["protocol.kid"] == SUPERSEDED
    (outcome,) = first.sync(tracking)
    assert outcome.corrected[0] == f"{FID} 956.7 -> 940.4" and "tag evaluation" in outcome.corrected
    assert not outcome.sent and outcome.problem is None
    assert standing(tracking) == (940.4, 100)
    names, content = pictures(tracking)
    assert len(names) == 1 and content == (first.folder / "out/runs/a/samples.png").read_bytes()
    (outcome,) = second.sync(tracking)
    assert standing(tracking) == (956.7, 300) and len(outcome.corrected) > 1
    assert pictures(tracking) == (names, (second.folder / "out/runs/a/samples.png").read_bytes())
    assert second.sync(tracking)[0].corrected == [], "nothing is left to do"
    run = found(tracking)
    assert (run.info.status, run.info.end_time) == ("FINISHED", end)
    assert len(points_in_mlflow(resolve(tracking).uri, run)["loss"]) == 2
    assert ORIGIN not in run.data.tags


def test_a_clock_that_is_behind_changes_nothing(
    shared: tuple[Machine, Machine, Tracking], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, tracking = shared
    first.evaluate(tracking, 100, **{FID: 940.4})
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    second.evaluate(tracking, 300, **{FID: 956.7})
    assert standing(tracking) == (956.7, 300)


def test_a_pulled_run_goes_whole_to_a_server_that_does_not_have_it(shared: tuple[Machine, Machine, Tracking]) -> None:
    """Even if its results went first to one that has it."""
    first, second, tracking = shared
    first.evaluate(tracking, 100, **{FID: 940.4})
    second.evaluate(tracking, 300, **{FID: 956.7})
    other = Tracking(uri=f"sqlite:///{second.folder}/other.db")
    second.sync(other)
    run = found(other)
    assert run.data.tags[ORIGIN] == "published files" and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"} and run.data.metrics["loss"] == 1.5
    assert standing(other) == (956.7, 300)
    second.sync(tracking)
    assert standing(tracking) == (956.7, 300)
    before = snapshot(resolve(other).uri)
    assert list(map(str, second.sync(other))) and snapshot(resolve(other).uri) == before


def test_the_training_s_own_journal_takes_the_place_of_a_run_made_of_files(
    shared: tuple[Machine, Machine, Tracking],
) -> None:
    first, second, tracking = shared
    second.evaluate(tracking, 300, **{FID: 956.7})
    made = found(tracking)
    assert ORIGIN in made.data.tags
    (outcome,) = first.sync(tracking)
    assert made.info.run_id in outcome.notes[0]
    whole = found(tracking)
    assert whole.info.run_id != made.info.run_id and ORIGIN not in whole.data.tags
    second.sync(tracking)
    assert found(tracking).info.run_id == whole.info.run_id and standing(tracking) == (956.7, 300)
    assert len(points_in_mlflow(resolve(tracking).uri, found(tracking))["loss"]) == 2


def test_a_training_that_mlflow_has_in_part_is_said(shared: tuple[Machine, Machine, Tracking]) -> None:
    first, second, tracking = shared
    first.evaluate(tracking, 100, **{FID: 940.4})
    client_of(resolve(tracking).uri).update_run(found(tracking).info.run_id, status="RUNNING")
    (outcome,) = second.sync(tracking)
    assert "is RUNNING" in outcome.notes[0] and "on the machine that trained it" in outcome.notes[0]


# ---- What sync leaves out


def test_what_is_not_sent_is_said(published: Path, project: Path) -> None:
    nested = project / ".genloom/runs/wgan/gp-0123"
    with Journal.open(nested) as opened:
        opened.start(name="wgan/gp", key="0123", params={}, tags={})
    (project / ".genloom/runs/empty").mkdir()
    (project / ".genloom/runs/empty/journal.jsonl").write_text("")
    (project / "out/runs/b").mkdir()
    (project / "out/runs/b/metrics.json").write_text("{}")
    problems = [outcome.problem for outcome in synchronize(params()) if outcome.problem]
    assert [problem.split(": not sent: ")[0].removeprefix(f"{project}/") for problem in problems] == [
        ".genloom/runs/empty/journal.jsonl",
        ".genloom/runs/wgan/gp-0123/journal.jsonl",
        "out/runs/b/metrics.json",
    ]


def test_what_mlflow_refused_is_said_again_and_a_run_that_trains_is_no_problem(published: Path, project: Path) -> None:
    folder = journal_folder(params(), "a", "k" * 64)
    with Journal.open(folder) as opened:
        opened.artifact(picture(project / "gone.png"))
    shutil.rmtree(next(folder.glob("files/*/gone.png")).parent)
    for _ in range(2):
        (outcome,) = synchronize(params())
        assert outcome.notes[0].startswith("refused by MLflow: artifact: ") and outcome.problem is None
    with Journal.open(folder):
        (outcome,) = synchronize(params())
    assert "another process is writing" in outcome.notes[0] and outcome.problem is None
