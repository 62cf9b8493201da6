"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

from functools import partial
from typing import Annotated

import typer

from pipeline import errors
from pipeline.config import read_params
from pipeline.stages.common import scratch, telling
from pipeline.stages.paths import OUT, run_folder


@telling("train")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Train one run of params.yaml; go on from a checkpoint of the same training, where there is one."""
    from pipeline.cluster.launch import Launch, exclusive, launch
    from pipeline.tracking.references import journal_folder
    from pipeline.training.prepare import prepared
    from pipeline.training.publish import publish

    params = read_params()
    with prepared(name, params, out=OUT, scratch=scratch(params)) as ready:
        launching = Launch(
            run=ready.run,
            key=ready.key,
            journal=journal_folder(params, name, ready.key.digest),
            dataset=ready.dataset.info,
            cluster=params.cluster,
            tracking=params.tracking,
        )
        with exclusive(ready.job.store, name):
            ready.keep_initial()
            launch(ready.job, launching, partial(publish, ready.run, ready.job, ready.dataset, run_folder(name)))


if __name__ == "__main__":
    errors.run(typer.run, main)
