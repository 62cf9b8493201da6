"""The weights that a training begins from, if not from scratch."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.config import SCRATCH, Run, Tracking, is_in_mlflow
from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.inference.weights import save_tensors
from pipeline.storage.checkpoint import STATE


@contextmanager
def initial_weights(name: str, run: Run, out: Path, tracking: Tracking) -> Iterator[Path | None]:
    """Find or fetch the weights file that a run's init_from or weights means.

    Args:
        name: the run's.
        run: its settings.
        out: the folder in which runs/<run> is published.
        tracking: where MLflow is.

    Yields:
        The file, or None for a run from scratch.

    Raises:
        UserError: there is no such file or model.
    """
    if run.init_from != SCRATCH:
        yield out / run.init_from / "weights.safetensors"
    elif run.weights is None:
        yield None
    elif is_in_mlflow(run.weights):
        from pipeline.tracking.queries import fetch_weights

        with tempfile.TemporaryDirectory() as folder:
            yield fetch_weights(run.weights, tracking, Path(folder))
    elif (state := state_file(Path(run.weights))) is not None:
        with tempfile.TemporaryDirectory() as folder:
            yield _from_checkpoint(name, state, Path(folder) / "weights.safetensors")
    elif Path(run.weights).is_file():
        yield Path(run.weights)
    else:
        raise no_such_weights(f"runs.{name}.", run.weights)


def no_such_weights(prefix: str, weights: str) -> UserError:
    """Return the error for a run's ``weights`` that name neither a file nor a model."""
    return UserError(
        f"params.yaml: {prefix}weights: '{weights}' is no file. Name a weights file, a checkpoint's folder or an "
        "MLflow model (models:/<id>); to begin from a run, set init_from to runs/<run>."
    )


def state_file(path: Path) -> Path | None:
    """Return the file of the state if the path names a checkpoint: its folder, or the file."""
    file = path / STATE if path.is_dir() else path
    return file if file.name == STATE and file.is_file() else None


def _from_checkpoint(name: str, state: Path, path: Path) -> Path:
    """Write a checkpoint's nets and averages as weights, as publishing it would."""
    try:
        content = torch.load(state, map_location="cpu", weights_only=True)["state"]
        save_tensors(path, {"checkpoint": content["seen"]}, content["nets"], content["ema"])
    except Exception as error:  # torch raises whatever a file of other bytes leads it to
        raise UserError(
            f"params.yaml: runs.{name}.weights: {state} is not a readable checkpoint "
            f"({' '.join(str(error).split())[:200]}). Name another one, or a weights file."
        ) from error
    return path


def keep_initial(path: Path, weights: Path | None) -> None:
    """Copy the weights to where the training will look for them, once; a resumed training keeps its copy."""
    if weights and not path.exists():
        with atomic_file(path) as temporary:
            shutil.copyfile(weights, temporary)
