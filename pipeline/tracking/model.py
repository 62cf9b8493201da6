"""The weights as an MLflow logged model: an exported program without pickle, loadable without this project."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.tags import version
from pipeline.tracking.target import reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    from pipeline.inference.export import Part

WEIGHTS_TAG = "genloom.weights"  # the hash of the weights file


def publish_model(
    client: "MlflowClient", experiment: str, run_id: str, weights: Path, classes: Sequence[str] = ()
) -> str | None:
    """Make the weights the run's logged model, unless they are it already; delete models of other weights.

    Args:
        client: A client of the target.
        experiment: MLflow's id of the experiment.
        run_id: MLflow's id of the run.
        weights: A weights file (pipeline.inference.weights) in a folder named after its hash.
        classes: Names of the data's classes, by label.

    Returns:
        None, or why these weights can't be exported, now or later.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    tags = {WEIGHTS_TAG: weights.parent.name}
    for model in models_of(client, experiment, run_id):
        if model.tags.get(WEIGHTS_TAG) == tags[WEIGHTS_TAG] and model.status == LoggedModelStatus.READY:
            return None
        client.delete_logged_model(model.model_id)  # half sent, or of earlier weights
    params = client.get_run(run_id).data.params
    model = client.create_logged_model(experiment, "model", run_id, tags, params, "image generator")
    with tempfile.TemporaryDirectory() as folder:
        if problem := _try_save(weights, Path(folder, "model"), run_id, model.model_id, classes):
            client.delete_logged_model(model.model_id)
            return problem
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return None


def save_model(
    weights: Path, folder: Path, run_id: str | None = None, model_id: str | None = None, classes: Sequence[str] = ()
) -> None:
    """Write the weights as an MLflow model.

    ``mlflow.pytorch.load_model`` returns (seeds, labels) -> images, or images -> images for a method that translates;
    ``mlflow.pyfunc.load_model`` returns the same with inputs by name, and its ``get_raw_model()`` all that the method
    can do (genloom_pyfunc.py). Each part is an exported program of its own.

    Args:
        weights: A weights file (pipeline.inference.weights).
        folder: The model's folder, which must not exist.
        run_id: MLflow's id of the run that trained them, if any.
        model_id: MLflow's id of the logged model, if any.
        classes: Names of the data's classes, by label.
    """
    import mlflow
    import torch
    from mlflow import pyfunc
    from mlflow.models import Model

    from pipeline.files import write_json
    from pipeline.inference import genloom_pyfunc
    from pipeline.inference.export import describe_parts, export, parts_of
    from pipeline.inference.weights import load_weights

    trained = load_weights(weights)
    parts = parts_of(trained)
    first, *further = parts
    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    # save_model leaves this flavor out for examples that are tensors.
    pyfunc.add_to_model(
        model, "genloom_pyfunc", data="data", code="code", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    mlflow.pytorch.save_model(
        parts[first],
        str(folder),
        mlflow_model=model,
        code_paths=[genloom_pyfunc.__file__],
        signature=_signature(parts[first], trained.method.directions),
        input_example=tuple(parts[first].examples(3).values()),  # a batch of 1 would fix the size at 1
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
        serialization_format="pt2",
    )
    for name in further:
        torch.export.save(export(parts[name]), folder / "data" / f"{name}.pt2")
    write_json(folder / "data" / "about.json", describe_parts(trained, parts) | {"class_names": list(classes)})
    model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    model.save(str(folder / "MLmodel"))


def _signature(part: "Part", directions: Sequence[str]) -> Any:
    """Return what MLflow checks and shows.

    All go in as "object", which MLflow hands on as they are: a type of its own would refuse either uint8 or float32
    images, and cut a seed of 1.7 down to 1 where it serves requests. The model checks type, shape and range itself.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    examples = part.examples(2)
    outputs = part(*examples.values())
    shown = Schema([TensorSpec(np.dtype("float32"), (-1, *outputs.shape[1:]))])
    if directions:
        inputs = Schema([TensorSpec(np.dtype("O"), (-1,), "images")])
        return ModelSignature(inputs, shown, ParamSchema([ParamSpec("direction", "string", directions[0])]))
    return ModelSignature(Schema([TensorSpec(np.dtype("O"), (-1,), name) for name in examples]), shown)


def _try_save(weights: Path, folder: Path, run_id: str, model_id: str, classes: Sequence[str]) -> str | None:
    try:
        save_model(weights, folder, run_id=run_id, model_id=model_id, classes=classes)
    except OSError:
        raise
    except Exception as error:  # torch.export raises many kinds; trying again would not help
        return reason(error)
    return None


def models_of(client: "MlflowClient", experiment: str, run_id: str) -> "list[LoggedModel]":
    """Return the models that a run logged, finished or not."""
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}' and name = 'model'"))
