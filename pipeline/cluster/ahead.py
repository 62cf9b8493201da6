"""Ray's cluster of a `dvc repro`, started before its first training: while the stages before that leave cores idle."""

from contextlib import suppress
from pathlib import Path

import pipeline
from pipeline.cluster.beside import changed_runs
from pipeline.cluster.driver import rays_environment
from pipeline.config import Params
from pipeline.session import client
from pipeline.session.dvc import repro_of_everything


def start_ahead(params: Params) -> None:
    """Start the cluster that the trainings to come share, and do not wait for it; nothing if none comes or it is there.

    Args:
        params: of the project; out/code is up to date.
    """
    folder, cluster = client.folder(), params.cluster
    if folder is None or cluster.address or not cluster.most or not repro_of_everything(folder):
        return
    if changed_runs(params):
        package = Path(pipeline.__file__).parents[1]
        with rays_environment(cluster), suppress(OSError), (folder / "ray.log").open("ab") as log:
            client.start("pipeline.cluster.keeper", [], (), output=log, environment={}, project=package)
