"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

from functools import partial
from typing import Annotated

import typer

from pipeline import errors
from pipeline.config import read_params, read_run
from pipeline.stages.common import scratch
from pipeline.stages.paths import DATA, OUT, run_folder


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Train one run of params.yaml; resume it where an earlier, interrupted call left it."""
    from pipeline import methods
    from pipeline.cluster.launch import Launch, exclusive, launch
    from pipeline.data.dataset import open_dataset
    from pipeline.dependencies.key import TrainingKey
    from pipeline.files import sha256_of
    from pipeline.tracking.record import run_scratch
    from pipeline.training.checks import check_data, check_nets
    from pipeline.training.initial import initial_weights, keep_initial
    from pipeline.training.job import Job
    from pipeline.training.publish import flat_params, publish

    params, dataset, prefix = read_params(), open_dataset(DATA), f"runs.{name}."
    run, own = read_run(params, name)
    method = methods.configure(run, own, prefix)
    check_data(prefix, run, method, dataset)
    with initial_weights(name, run, OUT, params.tracking) as weights:
        check_nets(prefix, run, method, dataset, weights)
        key = TrainingKey.of(params.runs[name], dataset.digest, sha256_of(weights) if weights else None)
        store = run_scratch(scratch(params), name, key.digest)
        job = Job(
            key=key.digest,
            run=run,
            method=method,
            data=str(DATA.absolute()),
            store=str(store),
            url=params.cluster.url and f"{params.cluster.url}/runs/{store.name}",
            shard=params.cluster.shard,
        )
        flat = flat_params(params.data, run, method)
        about = Launch(
            name=name, key=key, params=flat, dataset=dataset.info, cluster=params.cluster, tracking=params.tracking
        )
        with exclusive(store, name):
            keep_initial(job.initial, weights)
            launch(job, about, partial(publish, name, job, dataset, flat, run_folder(name)))


if __name__ == "__main__":
    errors.run(typer.run, main)
