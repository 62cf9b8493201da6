"""The weights that a training begins from, if not from scratch."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import SCRATCH, Run, Tracking
from pipeline.errors import UserError
from pipeline.files import atomic_file


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
    elif run.weights.startswith(("models:/", "runs:/")):
        from pipeline.tracking.queries import fetch_weights

        with tempfile.TemporaryDirectory() as folder:
            yield fetch_weights(run.weights, tracking, Path(folder))
    elif Path(run.weights).is_file():
        yield Path(run.weights)
    else:
        raise UserError(
            f"params.yaml: runs.{name}.weights: '{run.weights}' is no file. Name a weights file or an MLflow model "
            "(models:/<id>); to begin from a run, set init_from to runs/<run>."
        )


def keep_initial(path: Path, weights: Path | None) -> None:
    """Copy the weights to where the training will look for them, once; a resumed training keeps its copy."""
    if weights and not path.exists():
        with atomic_file(path) as temporary:
            shutil.copyfile(weights, temporary)
