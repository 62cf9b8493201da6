"""Training never waits for MLflow and loses nothing, whichever of the two processes or the server dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from journaled import artifacts, begin, client_of, in_mlflow, picture, points, points_in_mlflow, snapshot, train
from mlflow_server import Server, free_port

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.tracking.outages import is_away
from pipeline.tracking.queries import fetch_runs
from pipeline.tracking.sender import sync
from pipeline.tracking.shipped import is_synced, last_sent, run_page
from pipeline.tracking.shipper import shipping
from pipeline.tracking.target import resolve

ROOT = Path(__file__).parents[2]


def test_two_shippers_on_a_fresh_database_at_once_and_a_resume(project: Path) -> None:
    tracking = Tracking()
    names = ("dcgan", "vae")
    with shipping(project / "dcgan", tracking), shipping(project / "vae", tracking):
        for name in names:
            with begin(project / name, name, f"key-{name}") as opened:
                train(opened, range(20))
    runs = {run["run"]: run for run in fetch_runs(tracking)}
    assert {name: run["status"] for name, run in runs.items()} == {"dcgan": "KILLED", "vae": "KILLED"}
    with shipping(project / "vae", tracking), begin(project / "vae", "vae", "key-vae") as opened:
        train(opened, range(10, 30))
        opened.finish("FINISHED")
    again = {run["run"]: run for run in fetch_runs(tracking)}
    assert {name: run["run_id"] for name, run in again.items()} == {n: run["run_id"] for n, run in runs.items()}
    assert again["vae"]["status"] == "FINISHED"
    uri, client = resolve(tracking).uri, client_of(resolve(tracking).uri)
    for name, count in (("dcgan", 20), ("vae", 30)):
        found = points_in_mlflow(uri, client.get_run(again[name]["run_id"]))
        assert found == points(project / name)
        assert [step for step, _, _ in found["critic/loss"]] == list(range(count))
        metrics = client.get_run(again[name]["run_id"]).data.metrics
        assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    name, run_id = "system/system_memory_usage_percentage", again["vae"]["run_id"]
    assert [point.step for point in client.get_metric_history(run_id, name)] == [0, 1]  # one of each process


def test_kill_9_of_training_loses_nothing_that_was_journaled(project: Path) -> None:
    script = """
        import os, signal, sys, time
        from pathlib import Path
        from pipeline.config import Tracking
        from pipeline.tracking.journal import Journal
        from pipeline.tracking.shipper import shipping
        folder = Path("run")
        with shipping(folder, Tracking()):
            with Journal.open(folder) as journal:
                journal.start(name="dcgan", key="k1", params={}, tags={})
                for step in range(50):
                    journal.metrics({"loss": 1 / (step + 1)}, step=step, once=True)
                os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=project, env=environment)
    assert killed.returncode == -signal.SIGKILL
    wait_for_shipper(project / "run")
    run = in_mlflow(resolve(Tracking()).uri)
    assert run.info.status == "KILLED"
    assert points_in_mlflow(resolve(Tracking()).uri, run) == points(project / "run")


def test_what_is_left_is_sent_after_a_temporary_workspace_is_gone(project: Path, weights: Path) -> None:
    """As `dvc exp run --temp` does: the code is a copy below .dvc/tmp/exps that is deleted at the end."""
    script = """
        import sys
        from pathlib import Path
        from pipeline.config import Tracking
        from pipeline.tracking.journal import Journal
        from pipeline.tracking.shipper import shipping
        folder = Path(sys.argv[1])
        with shipping(folder, Tracking(), wait=0):
            with Journal.open(folder) as journal:
                journal.start(name="dcgan", key="k1", params={}, tags={})
                journal.model(Path(sys.argv[2]))
                journal.finish("FINISHED")
    """
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    workspace = project / ".dvc/tmp/exps/standalone/tmpabc"
    shutil.copytree(project / "pipeline", workspace / "pipeline")
    command = [sys.executable, "-c", textwrap.dedent(script), str(project / "run"), str(weights)]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=True)
    shutil.rmtree(workspace)
    assert "this run is still being sent" in done.stderr
    wait_for_shipper(project / "run")
    run = in_mlflow(resolve(Tracking()).uri)
    assert (run.info.status, len(run.outputs.model_outputs)) == ("FINISHED", 1)


def wait_for_shipper(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_synced(folder, Tracking()):
        assert time.monotonic() < deadline, (folder / "shipper.log").read_text()
        time.sleep(0.1)
    with locked(folder / "shipper.lock", wait=30):
        pass


def test_a_server_that_dies_and_comes_back_misses_nothing_and_delays_nothing(
    project: Path, server: Server, weights: Path
) -> None:
    tracking, folder = Tracking(uri=server.uri), project / "run"
    server.start()
    with shipping(folder, tracking), begin(folder) as opened:
        train(opened, range(100))
        opened.image("samples", picture(project / "samples.png"), step=64)
        deadline = time.monotonic() + 30
        while not is_synced(folder, tracking):
            assert time.monotonic() < deadline, (folder / "shipper.log").read_text()
            time.sleep(0.1)
        server.kill()
        began = time.monotonic()
        train(opened, range(100, 1100))
        assert time.monotonic() - began < 2
        time.sleep(2.5)  # the shipper meets a dead server
        assert "connection refused" in (folder / "shipper.log").read_text()
        server.start()
        train(opened, range(1000, 1200))
        opened.model(weights)
        opened.finish("FINISHED")
    run = in_mlflow(server.uri)
    assert run.info.status == "FINISHED"
    assert run_page(folder, tracking) == f"{server.uri}/#/runs/{run.info.run_id}"
    assert points_in_mlflow(server.uri, run) == points(folder)
    assert sum(name.startswith("images/") for name in artifacts(server.uri, run)) == 2
    before = snapshot(server.uri)
    assert sync(folder, tracking, everything=True) == []
    assert snapshot(server.uri) == before
    assert [status for _, status in before["models"]] == ["READY"]


def test_a_server_that_never_answers_costs_training_little_and_is_said_once(
    project: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://me:hunter2@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    folder, tracking = project / "run", Tracking()
    began = time.monotonic()
    with shipping(folder, tracking, wait=30), begin(folder) as opened:
        train(opened, range(100))
        opened.finish("FINISHED")
        inside = time.monotonic() - began
    assert inside < 2
    assert time.monotonic() - began < 10
    said = caplog.text
    assert said.count("does not answer (connection refused). Nothing waits for it: `genloom sync` sends") == 1
    assert said.count("tracking:") == 1
    assert "Traceback" not in said
    assert last_sent(folder) is None
    assert run_page(folder, tracking) is None
    with pytest.raises(UserError, match="can't be reached"):
        sync(folder, tracking)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(folder, tracking)
    assert points_in_mlflow(resolve(tracking).uri, in_mlflow(resolve(tracking).uri)) == points(folder)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    assert "hunter2" not in said


def test_system_metrics_go_on_after_an_outage_with_the_next_step(
    project: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.5")
    tracking, folder = Tracking(uri=server.uri), project / "run"
    server.start()
    with shipping(folder, tracking), begin(folder) as opened:
        before = wait_for_samples(server, folder, more_than=1)
        server.kill()
        time.sleep(2)  # MLflow's monitor meets a dead server and ends
        server.start()
        wait_for_samples(server, folder, more_than=len(before))
        opened.finish("FINISHED")
    steps = samples(server, in_mlflow(server.uri).info.run_id)
    assert steps == list(range(len(steps)))


def wait_for_samples(server: Server, folder: Path, more_than: int) -> list[int]:
    deadline = time.monotonic() + 60
    while True:
        sent = last_sent(folder)
        found = samples(server, sent[0]) if sent else []
        if len(found) > more_than:
            return found
        assert time.monotonic() < deadline, (folder / "shipper.log").read_text()
        time.sleep(0.2)


def samples(server: Server, run_id: str) -> list[int]:
    history = client_of(server.uri).get_metric_history(run_id, "system/system_memory_usage_percentage")
    return sorted(point.step for point in history)


@pytest.mark.slow
def test_a_server_that_takes_connections_and_says_nothing_delays_the_end_by_seconds(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracking = Tracking(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with shipping(project / "run", tracking), begin(project / "run") as opened:
            train(opened, range(10))
            opened.finish("FINISHED")
        assert 5 < time.monotonic() - began < 40
    assert "did not take all of this run (no answer in time)" in caplog.text
    before = len(caplog.records)
    began = time.monotonic()
    assert is_away(resolve(tracking), project, "all runs") and time.monotonic() - began < 0.5
    assert len(caplog.records) == before
