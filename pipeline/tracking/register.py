"""A run's model under a name in MLflow's registry, where others find it: models:/<name>/<version>."""

from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.tracking.model import WEIGHTS_TAG, models_of
from pipeline.tracking.target import Target, connect, prepare, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel


def register(target: Target, run_id: str, name: str, alias: str | None = None) -> tuple[str, bool]:
    """Give the model that a run logged a version of a registered model, once.

    Args:
        target: where MLflow is.
        run_id: MLflow's id of the run.
        name: of the registered model, made if there is none.
        alias: to point at the version, such as champion; None: none.

    Returns:
        The version, and whether it is new.

    Raises:
        UserError: the run has no finished model, or MLflow refuses or does not answer.
    """
    from mlflow.exceptions import MlflowException

    prepare(target)
    try:
        client = connect(target)
        model = _model_of(client, run_id)
        _ensure(client, name)
        source = f"models:/{model.model_id}"
        known = [found for found in client.search_model_versions(f"name = '{name}'") if found.source == source]
        tags = {WEIGHTS_TAG: model.tags.get(WEIGHTS_TAG, "")}
        version = known[0] if known else client.create_model_version(name, source, run_id, tags=tags)
        if alias:
            client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise UserError(f"MLflow at {target.shown} registers no '{name}': {reason(error)}") from error
    return str(version.version), not known


def _model_of(client: "MlflowClient", run_id: str) -> "LoggedModel":
    from mlflow.entities import LoggedModelStatus

    experiment = client.get_run(run_id).info.experiment_id
    for model in models_of(client, experiment, run_id):
        if model.status == LoggedModelStatus.READY:
            return model
    raise UserError(
        f"MLflow's run {run_id} has no model: `genloom sync` sends it, or says why this method can't be exported."
    )


def _ensure(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
