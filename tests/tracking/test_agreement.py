"""MLflow says what the published files say, whichever way they came here."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from journaled import DATASET, in_mlflow, picture, points_in_mlflow
from mlflow_server import free_port

from pipeline.config import Cluster, Data, Evaluate, Params, Render, Tracking
from pipeline.tracking.agreement import ORIGIN, SUPERSEDED, send_all_results, send_results, update_journals
from pipeline.tracking.journal import Journal
from pipeline.tracking.record import run_scratch
from pipeline.tracking.sender import sync
from pipeline.tracking.shipped import is_synced
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
    with Journal.open(run_scratch(project / ".genloom", "a", "k" * 64)) as opened:
        opened.start(name="a", key="k" * 64, params={"lr": 0.1}, tags={}, dataset=DATASET)
        opened.metrics({"loss": 2.0}, step=32, once=True)
        opened.metrics({"loss": 1.5}, step=64, once=True)
        opened.finish("FINISHED")
    sync(run_scratch(project / ".genloom", "a", "k" * 64), Tracking())
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
        send_results("a", params())
        assert found().data.metrics[FID] == scores[FID]
        assert json.loads(found().data.tags[f"protocol.{FID}"]) == {"samples": samples}
    assert found().data.tags["protocol.kid"] == SUPERSEDED
    assert (found().info.status, found().info.end_time) == ("FINISHED", end), "evaluation moved the training's end"
    values = [
        value for _, _, value in sorted(points_in_mlflow(resolve(Tracking()).uri, found())[FID], key=lambda p: p[1])
    ]
    assert values == [940.4, 956.7, 940.4]
    send_results("a", params())
    assert len(points_in_mlflow(resolve(Tracking()).uri, found())[FID]) == 3, "a repetition changes nothing"


def test_each_evaluation_is_kept_with_its_protocol(published: Path) -> None:
    import mlflow

    for samples in (100, 300):
        evaluated(published, samples, **{FID: float(samples)})
        send_results("a", params())
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
    send_results("a", params(other))
    made = found(other)
    assert made.data.tags[ORIGIN] == "published files" and made.info.status == "FINISHED"
    points = points_in_mlflow(resolve(other).uri, made)
    assert [(step, value) for step, _, value in points["loss"]] == [(32, 2.0), (64, 1.5)]
    assert made.data.metrics[FID] == 940.4 and made.data.metrics["cost/seconds"] == 2.0
    assert is_synced(run_scratch(project / ".genloom", "a", "k" * 64), other)


def test_a_server_that_is_down_is_one_line_and_no_failure(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(published, 100, **{FID: 940.4})
    away = params(Tracking(uri=f"http://127.0.0.1:{free_port()}"))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        send_results("a", away)
        send_all_results(away)
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert "refused" in record.getMessage() and "`genloom sync` sends" in record.getMessage()
        assert "\n" not in record.getMessage() and len(record.getMessage()) < 200


@pytest.mark.parametrize("name", ["metrics.json", "protocol.json", "train.json"])
def test_a_damaged_file_is_said_and_sends_nothing(published: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(published, 100, **{FID: 940.4})
    (published / name).write_text("{")
    (problem,) = update_journals(params())
    assert name in problem and "dvc repro" in problem
    assert FID not in found().data.metrics
