"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline import errors
from pipeline.config import Params, read_params, read_run
from pipeline.stages.common import scratch, telling
from pipeline.stages.paths import OUT, run_folder

logger = logging.getLogger("pipeline.stages.train")  # __name__ is "__main__" in a script


@telling("train")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Train one run of params.yaml, of each of its seeds; go on from checkpoints of the same training, where there are
    some. A seed whose training fails does not hinder the others, which are kept."""
    from pipeline.inference.published import SEEDS, training_of, write_seeds

    params, folder, problems = read_params(), run_folder(name), list[str]()
    seeds = read_run(params, name)[0].all_seeds
    shutil.rmtree(folder / SEEDS, ignore_errors=True)  # DVC does so too, but not where the script is run by hand
    for place, seed in enumerate(seeds, start=1):
        if len(seeds) > 1:
            logger.info("%s: seed %d, %d of %d", name, seed, place, len(seeds))
        found = list[str]()
        with errors.gathering(found):
            _train(name, params, seed, training_of(folder, seed, seeds))
        problems += [f"seed {seed}: {problem}" if len(seeds) > 1 else problem for problem in found]
    errors.refuse(problems)
    write_seeds(folder, seeds)


def _train(name: str, params: Params, seed: int, folder: Path) -> None:
    from pipeline.cluster.launch import Launch, exclusive, launch
    from pipeline.tracking.references import journal_folder
    from pipeline.training.prepare import prepared
    from pipeline.training.publish import publish

    with prepared(name, params, out=OUT, scratch=scratch(params), seed=seed) as ready:
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
            launch(ready.job, launching, partial(publish, ready.run, ready.job, ready.dataset, folder))


if __name__ == "__main__":
    errors.run(typer.run, main)
