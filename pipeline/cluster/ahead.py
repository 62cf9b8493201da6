"""Ray's cluster of a `dvc repro`, started before its first training: while the stages before that leave cores idle."""

from pipeline.cluster.beside import changed_runs
from pipeline.cluster.driver import rays_environment
from pipeline.cluster.keeper import start_shared
from pipeline.config import Params
from pipeline.session import client
from pipeline.session.dvc import repro_of_everything


def start_ahead(params: Params) -> None:
    """Start the cluster that the trainings to come share, and do not wait for it; nothing if none will come.

    Args:
        params: of the project; out/code is up to date.
    """
    folder, cluster = client.folder(), params.cluster
    if folder is None or cluster.address or not cluster.most or not repro_of_everything(folder):
        return
    if changed_runs(params):
        with rays_environment(cluster):
            start_shared(folder)
