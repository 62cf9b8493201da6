"""Reads MLflow: which runs it has, which of them are of a given training, and the weights of a run or model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import PARAMS, Tracking
from pipeline.errors import UserError
from pipeline.tracking.target import connect, prepare, reason, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def fetch_runs(tracking: Tracking, query: str = "") -> list[dict[str, Any]]:
    """Return the experiment's runs as MLflow has them, oldest first; block until it answers.

    Args:
        tracking: Where MLflow is.
        query: A filter in MLflow's language; all runs if empty.

    Returns:
        One mapping per run: run_id, experiment, run, key, status, params, tags, dataset (its digest).

    Raises:
        UserError: MLflow can't be reached.
    """
    target = resolve(tracking)
    prepare(target)
    try:
        client = connect(target)
        experiment = client.get_experiment_by_name(target.experiment)
        runs = search_runs(client, experiment.experiment_id, query) if experiment else []
    except Exception as error:
        raise UserError(f"MLflow at {target.shown} can't be reached: {reason(error)}") from error
    return [_described(run, target.experiment) for run in runs]


def search_runs(client: "MlflowClient", experiment: str, query: str) -> "list[Run]":
    """Return the active runs of an experiment that fit the query, oldest first."""
    return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))


def by_key(name: str, key: str) -> str:
    """Return the query for the runs of one training: a run of params.yaml and the hash of all that determines it."""
    return f"tags.`genloom.key` = '{key}' and tags.`genloom.run` = '{name}'"


def fetch_weights(uri: str, tracking: Tracking, folder: Path, key: str = f"{PARAMS}: init_from") -> Path:
    """Download the weights file of an MLflow model or run.

    Args:
        uri: models:/<id>, models:/<name>/<version> or runs:/<id>.
        tracking: Where MLflow is.
        folder: Where to put the file.
        key: What asked for them, for the message.

    Returns:
        The file's path, below ``folder``.

    Raises:
        UserError: There is no such model, run or file, or MLflow can't be reached.
    """
    import mlflow

    target = resolve(tracking)
    prepare(target)
    try:
        client = connect(target)
        artifacts = f"runs:/{_run_id_of(client, uri)}/weights.safetensors"
        return Path(mlflow.artifacts.download_artifacts(artifacts, dst_path=str(folder), tracking_uri=target.uri))
    except Exception as error:
        raise UserError(f"{key}: no weights of '{uri}' in MLflow at {target.shown}: {reason(error)}") from error


def _described(run: "Run", experiment: str) -> dict[str, Any]:
    datasets = run.inputs.dataset_inputs if run.inputs else []
    return {
        "run_id": run.info.run_id,
        "experiment": experiment,
        "run": run.data.tags.get("genloom.run"),
        "key": run.data.tags.get("genloom.key"),
        "status": run.info.status,
        "params": dict(run.data.params),
        "tags": dict(run.data.tags),
        "dataset": next((item.dataset.digest for item in datasets), None),
    }


def _run_id_of(client: "MlflowClient", uri: str) -> str:
    """Return the id of the run that made a model, or that the URI names."""
    kind, _, path = uri.partition(":/")
    parts = path.strip("/").split("/")
    if kind == "runs":
        return parts[0]
    if len(parts) == 1:
        return str(client.get_logged_model(parts[0]).source_run_id)
    return str(client.get_model_version(*parts[:2]).run_id)
