"""One training of params.yaml ahead of its stage, which then only publishes it: a process of `genloom train`."""

import json
from dataclasses import replace
from typing import Annotated

import typer

from pipeline import errors
from pipeline.config import read_params
from pipeline.stages.train import train


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")],
    seed: Annotated[int, typer.Argument(metavar="SEED", help="Of the training.")],
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0: in this process, without Ray.")] = 0,
    cpus: Annotated[int, typer.Option(help="Of each worker.")] = 1,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
) -> None:
    """Train to the end and leave the checkpoints where the stage finds them; print, as JSON, where its journal is."""
    params = read_params()
    given = params.cluster.workers  # a range stays one on Ray
    wanted = workers if isinstance(given, int) or not workers else given
    cluster = replace(params.cluster, address=address, cpus_per_worker=cpus, workers=wanted)
    train(
        name,
        replace(params, cluster=cluster),
        seed,
        to=None,
        announce=lambda journal, total: print(json.dumps({"journal": str(journal), "total": total}), flush=True),
    )


if __name__ == "__main__":
    errors.run(typer.run, main)
