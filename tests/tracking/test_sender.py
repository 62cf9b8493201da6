"""MLflow is a copy of the journal: nothing lost, nothing doubled, and its models load without this project."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from journaled import PARAMS, artifacts, begin, client_of, in_mlflow, picture, points, points_in_mlflow, snapshot, train

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.tracking.queries import fetch_weights
from pipeline.tracking.sender import sync
from pipeline.tracking.shipped import STATE, is_synced, last_sent, run_page
from pipeline.tracking.target import resolve


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
    assert last_sent(finished) == (run.info.run_id, "genloom")
    assert run_page(finished, tracking) == f"http://127.0.0.1:5000/#/runs/{run.info.run_id} (while `genloom ui` runs)"
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


def test_shipped_json_of_a_foreign_shape_is_no_obstacle(project: Path) -> None:
    with begin(project / "run") as opened:
        train(opened, range(3))
        opened.finish("FINISHED")
    for content in ("", "[]", json.dumps({"run_id": "x"})):
        (project / "run" / STATE).write_text(content)
        sync(project / "run", Tracking())
    assert points_in_mlflow(resolve(Tracking()).uri, in_mlflow(resolve(Tracking()).uri)) == points(project / "run")
