"""Stage `generate`, per run: samples of the averaged weights, kept as features, and the method's own scores."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.stages.common import telling
from pipeline.stages.entry import TORCH, run_stage
from pipeline.stages.paths import DATA, EXTRACTORS, run_folder


@telling("generate")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Sample the averaged weights of each of the run's trainings once and keep what metrics need of the samples in its
    folder features."""
    from pipeline.cluster.spread import spread
    from pipeline.evaluate.chunks import Materials
    from pipeline.evaluate.extraction import generate
    from pipeline.files import atomic_folder
    from pipeline.inference.published import training_of
    from pipeline.tracking.agreement import note_seconds

    params, trained = read_params(), run_folder(name)
    run, seconds = read_run(params, name)[0], dict[Path, float]()
    with atomic_folder(trained / "features") as features:
        for seed in run.all_seeds:
            begin, training = time.monotonic(), training_of(trained, seed, run.all_seeds)
            materials = Materials(
                data=DATA,
                prepared=EXTRACTORS,
                settings=params.evaluate,
                weights=training / "weights.safetensors",
                classes=run.domains,
                at_a_time=run.batch_size,  # of training, by however many workers: its number changes no sample
            )
            folder = training_of(features, seed, run.all_seeds)
            folder.mkdir(parents=True, exist_ok=True)
            generate(folder, materials, spread(params.cluster, name))
            seconds[training] = time.monotonic() - begin
    for training, taken in seconds.items():
        note_seconds(training, params, {"generate": taken})


if __name__ == "__main__":
    run_stage(main, *TORCH, nets=True)
