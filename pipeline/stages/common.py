"""What the stages of a run share: the folder of its journal and checkpoints, and its journal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Params, read_params, read_run
from pipeline.files import project_root
from pipeline.stages.paths import run_folder
from pipeline.tracking.journal import Journal


def at_a_time(params: Params, name: str) -> int:
    """Return how many images a process of a run's training takes at once: what is sampled of it takes no more."""
    return max(1, read_run(params, name)[0].batch_size // max(1, params.cluster.most))


def scratch(params: Params) -> Path:
    """Return the folder of all journals, checkpoints and unfinished downloads."""
    return project_root() / params.cluster.scratch


@contextmanager
def reopen(name: str) -> Iterator[Journal]:
    """Open the journal of a trained run, for what comes after training; it is shipped to the run's own MLflow run."""
    from pipeline.tracking import record

    params = read_params()
    with record.reopen(run_folder(name), scratch(params), params.tracking) as journal:
        yield journal
