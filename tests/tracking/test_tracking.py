"""The journal is the truth, MLflow a copy of it: nothing lost, nothing doubled, whatever dies in between."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.tracking.journal import Journal
from pipeline.tracking.progress import POLL_SECONDS, watching
from pipeline.tracking.shipper import (
    STATE,
    code_tags,
    fetch_runs,
    fetch_weights,
    is_synced,
    journal,
    redacted,
    resolve,
    run_page,
    run_reference,
    shipping,
    sync,
)

ROOT = Path(__file__).parents[2]
DATASET = {"source": "digits", "digest": "d" * 64, "channels": 1, "size": 16, "classes": list("0123456789")}
PARAMS = {"method": "dcgan", "lr": 1e-4, "seed": 0, "mirror": None, "flag": True}
# MLflow stores NaN, and infinities as the largest float.
HARD = {"third": 1 / 3, "tiny": 5e-324, "big": 1.7976931348623157e308, "nan": math.nan, "negative": -0.1}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the current folder, away from any MLflow of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path


def picture(path: Path, shade: int = 100) -> Path:
    from PIL import Image

    Image.new("L", (64, 32), shade).save(path)
    return path


def begin(folder: Path, name: str = "dcgan", key: str = "k1") -> Journal:
    opened = Journal.open(folder)
    opened.start(name=name, key=key, params=PARAMS, tags={"colour": "red"}, dataset=DATASET)
    return opened


def train(opened: Journal, steps: range) -> None:
    for step in steps:
        opened.metrics({"critic/loss": 1 / (step + 3), "generator/loss": math.sin(step)}, step=step, once=True)


def points(folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    """(step, time, value) by metric, as journaled."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for record, _ in journal.read(folder / journal.NAME):
        for name, value in record.get("values", {}).items():
            found.setdefault(name, []).append((record["step"], record["time"], value))
    return {name: sorted(values) for name, values in found.items()}


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def in_mlflow(uri: str) -> Any:
    """The only run of the experiment; two would be a failure."""
    client = client_of(uri)
    runs = client.search_runs([client.get_experiment_by_name("genloom").experiment_id])
    assert len(runs) == 1
    return runs[0]


def points_in_mlflow(uri: str, run: Any) -> dict[str, list[tuple[int, int, float]]]:
    client = client_of(uri)
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {name: sorted((m.step, m.timestamp, m.value) for m in history) for name, history in histories.items()}


def artifacts(uri: str, run: Any, folder: str = "") -> list[str]:
    found: list[str] = []
    for item in client_of(uri).list_artifacts(run.info.run_id, folder):
        found += artifacts(uri, run, item.path) if item.is_dir else [item.path]
    return sorted(found)


def snapshot(uri: str) -> dict[str, Any]:
    """All that MLflow holds of the only run and its models, but for the time at which a model was made."""
    run = in_mlflow(uri)
    models = client_of(uri).search_logged_models([run.info.experiment_id])
    return {
        "info": dict(run.info),
        "params": run.data.params,
        "tags": run.data.tags,
        "points": repr(points_in_mlflow(uri, run)),
        "inputs": [item.dataset.to_dictionary() for item in run.inputs.dataset_inputs],
        "models": [(model.model_id, str(model.status)) for model in models],
        "outputs": [output.model_id for output in run.outputs.model_outputs],
        "artifacts": artifacts(uri, run),
    }


# ---- The journal


def test_a_half_written_line_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        train(opened, range(3))
    whole = (tmp_path / journal.NAME).read_bytes()
    for torn in (b'{"kind": "metr', b"\0\0\0\0\n\0\0", b'{"kind": "metrics"}\n{"ki'):
        (tmp_path / journal.NAME).write_bytes(whole + torn)
        Journal.open(tmp_path).close()
        assert (tmp_path / journal.NAME).read_bytes() == whole


def test_damage_before_the_end_is_said_and_not_hidden(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        train(opened, range(3))
    lines = (tmp_path / journal.NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / journal.NAME).write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"journal\.jsonl: the line that ends at byte \d+ is damaged"):
        Journal.open(tmp_path)
    with locked(tmp_path / journal.LOCK):
        pass  # and the failed opening holds no lock


def test_every_float_comes_back_as_it_was(tmp_path: Path) -> None:
    values = HARD | {"inf": math.inf, "minus": -math.inf}
    with begin(tmp_path) as opened:
        opened.metrics(values, step=64, once=True)
    with Journal.open(tmp_path) as opened:
        (row,) = opened.rows()
    assert repr(row) == repr({"step": 64} | values)


def test_replayed_training_leaves_no_second_point_and_the_first_value_stays(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        opened.metrics({"loss": 1.0}, step=10, once=True)
        opened.metrics({"loss": math.nan}, step=20, once=True)
    with begin(tmp_path) as opened:
        opened.metrics({"loss": 9.0, "norm": 2.0}, step=10, once=True)
        opened.metrics({"loss": 9.0}, step=20, once=True)
        opened.metrics({"loss": 3.0}, step=30, once=True)
        assert repr(opened.rows()) == repr(
            [{"step": 10, "loss": 1.0, "norm": 2.0}, {"step": 20, "loss": math.nan}, {"step": 30, "loss": 3.0}]
        )
    assert [len(values) for values in points(tmp_path).values()] == [3, 1]


def test_a_later_metric_counts_only_if_it_differs_and_is_no_row_of_training(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        for value in (5.0, 5.0, 6.0, math.nan, math.nan):
            opened.metrics({"fid": value}, step=10)
        assert opened.rows() == []
    assert [value for _, _, value in points(tmp_path)["fid"]][:2] == [5.0, 6.0]
    assert len(points(tmp_path)["fid"]) == 3


def test_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LOCK_WAIT", 0.1)
    with begin(tmp_path):
        assert journal.is_open(tmp_path)
        with pytest.raises(UserError, match="another process is writing"):
            Journal.open(tmp_path)
    assert not journal.is_open(tmp_path)
    Journal.open(tmp_path).close()


def test_attachments_keep_their_content_and_a_new_picture_takes_the_old_ones_time(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", 10)
    first = source.read_bytes()
    with begin(tmp_path / "run") as opened:
        opened.image("samples", source, step=5)
        opened.image("samples", source, step=5)
        with source.open("r+b") as file:
            file.write(picture(tmp_path / "b.png", 20).read_bytes())
        opened.image("samples", source, step=5)
    images = [record for record, _ in journal.read(tmp_path / "run" / journal.NAME) if record["kind"] == "image"]
    assert len(images) == 2
    assert images[0]["time"] == images[1]["time"]
    assert (tmp_path / "run" / images[0]["file"]).read_bytes() == first


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with begin(tmp_path) as opened:
        before = (tmp_path / journal.NAME).read_bytes()
        monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
        with pytest.raises(OSError, match="disk is full"):
            opened.metrics({"loss": 1.0}, step=1, once=True)
        monkeypatch.undo()
        assert (tmp_path / journal.NAME).read_bytes() == before
        opened.metrics({"loss": 1.0}, step=1, once=True)
        assert opened.rows() == [{"step": 1, "loss": 1.0}]


def test_what_mlflow_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        with pytest.raises(ValueError, match="loss"):
            opened.metrics({"loss?": 1.0}, step=1)
        with pytest.raises(ValueError, match="PNG"):
            opened.image("film", tmp_path / "film.gif", step=1)
        with pytest.raises(ValueError, match="journal of dcgan"):
            opened.start(name="vae", key="k1", params={}, tags={})


# ---- Where to


def test_a_relative_database_lies_in_the_project_even_from_a_temporary_workspace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(Tracking()).uri == f"sqlite:///{project}/mlflow.db"
    workspace = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert resolve(Tracking()).uri == f"sqlite:///{project}/mlflow.db"
    assert resolve(Tracking(uri="sqlite:////data/x.db")).uri == "sqlite:////data/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert resolve(Tracking()).uri == "http://elsewhere:5000"


def test_a_wrong_address_is_said_without_its_password(project: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: tracking\.uri") as caught:
        resolve(Tracking(uri="ftp://me:hunter2@host/x"))
    assert "hunter2" not in str(caught.value)
    assert redacted("a http://me:hunter2@host/x b") == "a http://***@host/x b"


def test_importing_tracking_imports_neither_mlflow_nor_torch() -> None:
    modules = "pipeline.tracking.journal, pipeline.tracking.shipper, pipeline.tracking.lineage, pipeline.__main__"
    code = f"import sys, {modules}; print({{'mlflow', 'torch'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_code_tags_tell_the_commit_and_whether_the_tree_differs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "git.commit" not in code_tags()
    (project / "a").write_text("1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    (project / "dvc.lock").write_text("written by DVC while a stage runs")
    monkeypatch.setenv("DVC_STAGE", "train@dcgan")
    tags = code_tags()
    assert len(tags["git.commit"]) == 40
    assert tags["git.commit"] == tags["mlflow.source.git.commit"]
    assert (tags["git.dirty"], tags["dvc.stage"]) == ("false", "train@dcgan")
    assert {"version.python", "version.torch", "version.mlflow", "version.ray", "version.dvc"} <= set(tags)
    (project / "a").write_text("2")
    assert code_tags()["git.dirty"] == "true"


# ---- Sending


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model of a real method."""
    import copy

    import torch
    from torch import nn

    from pipeline import methods
    from pipeline.core.batch import ImageSpec
    from pipeline.inference.weights import save_weights

    params = {"width": 8}
    method, spec = methods.load("dcgan", **params), ImageSpec(channels=1, size=16, classes=10)
    torch.manual_seed(0)
    nets = method.build(spec)
    ema = nn.ModuleDict({name: copy.deepcopy(nets[name]) for name in method.sampled})
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, name="dcgan", params=params, spec=spec, seen=640, nets=nets, ema=ema)
    return path


@pytest.fixture
def finished(project: Path, weights: Path) -> Path:
    """The journal of a whole run."""
    folder = project / "run"
    with begin(folder) as opened:
        train(opened, range(0, 700))
        opened.metrics(HARD, step=5)
        opened.image("samples/fixed", picture(project / "samples.png"), step=64)
        opened.artifact(project / "samples.png", "pictures")
        opened.tags({"colour": "blue"})
        opened.model(weights)
        opened.finish("FINISHED")
    return folder


def test_mlflow_holds_exactly_the_journal_and_sending_again_changes_nothing(project: Path, finished: Path) -> None:
    tracking = Tracking()
    assert not is_synced(finished, tracking)
    assert sync(finished, tracking) == []
    assert is_synced(finished, tracking)
    uri = resolve(tracking).uri
    run = in_mlflow(uri)
    assert repr(points_in_mlflow(uri, run)) == repr(points(finished))
    assert run.data.params == {name: str(value) for name, value in PARAMS.items()}
    assert run.data.tags["colour"] == "blue"
    assert (run.info.run_name, run.info.status) == ("dcgan", "FINISHED")
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    pictures = [name.split("+") for name in artifacts(uri, run) if name.startswith("images/")]
    assert [(parts[0], parts[2]) for parts in pictures] == [("images/samples~fixed", "64")] * 2
    assert "pictures/samples.png" in artifacts(uri, run)
    assert run_reference(finished, tracking) == {
        "run_id": run.info.run_id,
        "run": "dcgan",
        "key": "k1",
        "experiment": "genloom",
    }
    assert run_page(finished, tracking) == f"MLflow's run {run.info.run_id}: `genloom ui` shows it"
    first = snapshot(uri)
    assert [status for _, status in first["models"]] == ["READY"]
    assert sync(finished, tracking) == []
    assert sync(finished, tracking, everything=True) == []
    (finished / STATE).unlink()
    assert sync(finished, tracking) == []
    assert snapshot(uri) == first
    assert not (project / "mlruns").exists()
    check_model(uri, first["models"][0][0], project, finished)


def check_model(uri: str, model_id: str, project: Path, folder: Path) -> None:
    """Loads it in a fresh process that has no genloom, in other batch sizes; compares with sampling directly."""
    import numpy as np
    import torch

    from pipeline.inference.export import load_sampler

    script = """
        import sys, mlflow, numpy as np, torch
        mlflow.set_tracking_uri(sys.argv[1])
        model, plain = mlflow.pytorch.load_model(sys.argv[2]), mlflow.pyfunc.load_model(sys.argv[2])
        def by_name(n):
            return plain.predict({"seeds": np.arange(n), "labels": np.arange(n) % 10})
        seven = model(torch.arange(7), torch.arange(7) % 10).numpy()
        assert "pipeline" not in sys.modules
        np.savez("out.npz", seven=seven, five=by_name(5), one=by_name(1))
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(script), uri, f"models:/{model_id}"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    with torch.inference_mode():
        direct = load_sampler(next(folder.glob("files/*/weights.safetensors")))(torch.arange(7), torch.arange(7) % 10)
    assert direct.shape == (7, 1, 16, 16)
    assert float(direct.std()) > 0
    with np.load(project / "out.npz") as loaded:
        for name, count in (("seven", 7), ("five", 5), ("one", 1)):
            assert loaded[name].dtype == np.float32
            np.testing.assert_allclose(loaded[name], direct[:count].numpy(), rtol=0, atol=1e-5)


def test_weights_to_begin_from_come_by_model_or_by_run(project: Path, weights: Path) -> None:
    tracking = Tracking()
    with begin(project / "run") as opened:
        opened.artifact(weights)
        opened.model(weights)
        opened.finish("FINISHED")
    sync(project / "run", tracking)
    uri = resolve(tracking).uri
    ((model, _),) = snapshot(uri)["models"]
    run = in_mlflow(uri).info.run_id
    for number, name in enumerate([f"models:/{model}", f"runs:/{run}", f"runs:/{run}/model"]):
        (project / str(number)).mkdir()
        assert fetch_weights(name, tracking, project / str(number)).read_bytes() == weights.read_bytes()
    with pytest.raises(UserError, match=r"init_from: no weights of 'models:/m-nothing' in MLflow"):
        fetch_weights("models:/m-nothing", tracking, project)


def test_a_run_goes_on_in_the_same_mlflow_run_even_from_a_fresh_clone(project: Path) -> None:
    tracking = Tracking()
    with begin(project / "run") as opened:
        train(opened, range(10))
        opened.finish("FINISHED")
    sync(project / "run", tracking)
    first = in_mlflow(resolve(tracking).uri)
    shutil.rmtree(project / "run")
    with begin(project / "run") as opened:
        opened.metrics({"fid": 12.5}, step=9)
        opened.finish("FINISHED")
    sync(project / "run", tracking)
    again = in_mlflow(resolve(tracking).uri)
    assert again.info.run_id == first.info.run_id
    assert again.data.metrics == first.data.metrics | {"fid": 12.5}


def test_a_run_deleted_in_mlflow_is_sent_anew(project: Path) -> None:
    tracking = Tracking()
    with begin(project / "run") as opened:
        train(opened, range(10))
        opened.finish("FINISHED")
    sync(project / "run", tracking)
    uri = resolve(tracking).uri
    client_of(uri).delete_run(in_mlflow(uri).info.run_id)
    sync(project / "run", tracking)
    assert points_in_mlflow(uri, in_mlflow(uri)) == points(project / "run")


def test_what_mlflow_will_never_take_holds_up_nothing_else(project: Path) -> None:
    tracking = Tracking()
    with begin(project / "run") as opened:
        opened.artifact(picture(project / "gone.png"))
        opened.model(picture(project / "no-weights.png"))
        opened.start(name="dcgan", key="k1", params={"later": 1}, tags={})
        train(opened, range(3))
        opened.finish("FINISHED")
    shutil.rmtree(next((project / "run").glob("files/*/gone.png")).parent)
    refused = sync(project / "run", tracking)
    assert [reason.split(":")[0] for reason in refused] == ["artifact", "model"]
    uri = resolve(tracking).uri
    run = in_mlflow(uri)
    assert (run.info.status, run.data.params["later"]) == ("FINISHED", "1")
    assert points_in_mlflow(uri, run) == points(project / "run")
    assert not client_of(uri).search_logged_models([run.info.experiment_id])


# ---- The shipper's process


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


def wait_for_shipper(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_synced(folder, Tracking()):
        assert time.monotonic() < deadline, (folder / "shipper.log").read_text()
        time.sleep(0.1)
    with locked(folder / "shipper.lock", wait=30):
        pass


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


class Server:
    """A real MLflow server on its own database, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.uri.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "server-artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its many processes
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        import urllib.request

        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


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
        assert "MlflowException" in (folder / "shipper.log").read_text()
        server.start()
        train(opened, range(1000, 1200))
        opened.model(weights)
        opened.finish("FINISHED")
    run = in_mlflow(server.uri)
    assert run.info.status == "FINISHED"
    assert run_page(folder, tracking) == f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert points_in_mlflow(server.uri, run) == points(folder)
    assert sum(name.startswith("images/") for name in artifacts(server.uri, run)) == 2
    before = snapshot(server.uri)
    assert sync(folder, tracking, everything=True) == []
    assert snapshot(server.uri) == before
    assert [status for _, status in before["models"]] == ["READY"]


def test_a_server_that_never_answers_costs_training_little_and_is_said_once(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
    assert time.monotonic() - began < 30
    said = capfd.readouterr()
    assert said.err.count("does not answer ([Errno 111] Connection refused); training goes on.") == 1
    assert said.err.count("genloom sync") == 1
    assert "Traceback" not in said.err
    assert run_reference(folder, tracking) == {
        "run_id": None,
        "run": "dcgan",
        "key": "k1",
        "experiment": "genloom",
    }
    with pytest.raises(UserError, match="can't be reached"):
        sync(folder, tracking)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(folder, tracking)
    assert points_in_mlflow(resolve(tracking).uri, in_mlflow(resolve(tracking).uri)) == points(folder)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    assert "hunter2" not in said.err


@pytest.mark.slow
def test_a_server_that_takes_connections_and_says_nothing_delays_the_end_by_seconds(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracking = Tracking(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with shipping(project / "run", tracking), begin(project / "run") as opened:
            train(opened, range(10))
            opened.finish("FINISHED")
        assert 5 < time.monotonic() - began < 40
    assert "did not take all of this run" in capfd.readouterr().err


def test_a_person_sees_progress_and_once_where_to_look(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, pages = project / "run", iter([None, "http://there/#/runs/1"])
    with begin(folder) as opened, watching(folder, "dcgan", 400, lambda: next(pages)):
        for seen in (40, 80):
            opened.metrics({"critic/loss": 0.5, "images_per_second": 1234.0}, step=seen, once=True)
            time.sleep(2 * POLL_SECONDS)
        opened.finish("FINISHED")
    assert capfd.readouterr().err.splitlines() == [
        "dcgan: 40 of 400 images, 1,234 images/s  critic 0.5",
        "dcgan: http://there/#/runs/1",
        "dcgan: 80 of 400 images, 1,234 images/s  critic 0.5",
    ]


def test_shipped_json_of_a_foreign_shape_is_no_obstacle(project: Path) -> None:
    with begin(project / "run") as opened:
        train(opened, range(3))
        opened.finish("FINISHED")
    for content in ("", "[]", json.dumps({"run_id": "x"})):
        (project / "run" / STATE).write_text(content)
        sync(project / "run", Tracking())
    assert points_in_mlflow(resolve(Tracking()).uri, in_mlflow(resolve(Tracking()).uri)) == points(project / "run")
