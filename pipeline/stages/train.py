"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline import errors
from pipeline.config import Params, read_params, read_run
from pipeline.stages.common import scratch, telling
from pipeline.stages.entry import COMPILER, TORCH, TRACKING, run_stage
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
            train(name, params, seed, to=training_of(folder, seed, seeds))
        problems += [f"seed {seed}: {problem}" if len(seeds) > 1 else problem for problem in found]
    errors.refuse(problems)
    write_seeds(folder, seeds)


def train(
    name: str, params: Params, seed: int, *, to: Path | None, announce: Callable[[Path, int], None] | None = None
) -> None:
    """Train one seed of a run.

    Args:
        name: the run's.
        params: of the project.
        seed: of the training.
        to: the folder where it is published; None: it is left to who publishes it later.
        announce: told the journal's folder and the images of the whole training before it begins.

    Raises:
        UserError: the run's settings do not fit, or its training failed.
    """
    from pipeline.cluster.beside import fill, slots_of, threads_wanted
    from pipeline.cluster.launch import exclusive, launch, launching
    from pipeline.training.prepare import prepared
    from pipeline.training.publish import publish

    slots = slots_of(params)
    with prepared(name, params, out=OUT, scratch=scratch(params), seed=seed) as ready, ExitStack() as held:
        about = launching(ready, params)
        if announce:
            announce(about.journal, ready.job.finished_at)
        begun = slots.begun(name, seed) if slots else None
        if slots and begun is not None:
            fill(slots, params)  # this process waits for it
        held.enter_context(exclusive(ready.job, about, begun))
        if slots:
            held.enter_context(slots.hold(threads_wanted(ready)))
            fill(slots, params)
        ready.keep_initial()
        launch(ready.job, about, partial(publish, ready.run, ready.job, ready.dataset, to) if to else None)


if __name__ == "__main__":
    run_stage(main, *TORCH, *COMPILER, soon=TRACKING)
