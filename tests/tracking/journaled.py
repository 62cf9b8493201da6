"""What the tests here journal, and what MLflow holds of it."""

import math
from pathlib import Path
from typing import Any

from pipeline.tracking import journal
from pipeline.tracking.journal import Journal

DATASET = {"source": "digits", "digest": "d" * 64, "channels": 1, "size": 16, "classes": list("0123456789")}
PARAMS = {"method": "dcgan", "lr": 1e-4, "seed": 0, "mirror": None, "flag": True}
# MLflow stores NaN, and infinities as the largest float.
HARD = {"third": 1 / 3, "tiny": 5e-324, "big": 1.7976931348623157e308, "nan": math.nan, "negative": -0.1}


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
