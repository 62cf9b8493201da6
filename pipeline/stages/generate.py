"""Stage `generate`, per run: samples of the averaged weights, kept as features, and the method's own scores."""

import time
from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.errors import run
from pipeline.stages.common import telling
from pipeline.stages.paths import DATA, EXTRACTORS, run_folder


@telling("generate")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Sample the run's averaged weights once and keep what metrics need of the samples in its folder features."""
    from pipeline.cluster.spread import spread
    from pipeline.evaluate.chunks import Materials
    from pipeline.evaluate.extraction import generate
    from pipeline.files import atomic_folder
    from pipeline.tracking.agreement import note_seconds

    begin = time.monotonic()
    params = read_params()
    run_settings = read_run(params, name)[0]
    materials = Materials(
        data=DATA,
        prepared=EXTRACTORS,
        settings=params.evaluate,
        weights=run_folder(name) / "weights.safetensors",
        classes=run_settings.domains,
        at_a_time=run_settings.batch_size,  # of training, by however many workers: its number changes no sample
    )
    with atomic_folder(run_folder(name) / "features") as folder:
        generate(folder, materials, spread(params.cluster, name))
    note_seconds(name, params, {"generate": time.monotonic() - begin})


if __name__ == "__main__":
    run(typer.run, main)
