"""Ray's cluster of a `dvc repro`, started before its first training: while the stages before that leave cores idle."""

from pipeline.cluster.beside import changed_runs, whole_repro_here
from pipeline.cluster.driver import rays_environment
from pipeline.cluster.keeper import start_shared
from pipeline.config import Params


def start_ahead(params: Params) -> None:
    """Start the cluster that the trainings to come share, and do not wait for it; nothing if none will come.

    Args:
        params: of the project; out/code is up to date.
    """
    folder = whole_repro_here(params) if params.cluster.most else None
    if folder and changed_runs(params):
        with rays_environment(params.cluster):
            start_shared(folder)
