"""Stage `generate`, per run: samples of the averaged weights, kept as features, and the method's own scores."""

from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.errors import run
from pipeline.stages.paths import DATA, run_folder


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Sample the run's averaged weights once and keep what metrics need of the samples in its folder features."""
    from pipeline.core.world import default_device
    from pipeline.data.dataset import domains, open_dataset
    from pipeline.evaluate import extractors
    from pipeline.evaluate.extraction import write_samples
    from pipeline.files import atomic_folder
    from pipeline.inference.generate import load_fitting

    params, device = read_params(), default_device()
    trained_run, _ = read_run(params, name)
    dataset = open_dataset(DATA)
    trained = load_fitting(run_folder(name) / "weights.safetensors", dataset.spec, device)
    first, second = domains(dataset, trained_run.domains)
    with atomic_folder(run_folder(name) / "features") as folder:
        known = extractors.load_all(params.evaluate, device)
        write_samples(folder, trained, first, params.evaluate, known, second)


if __name__ == "__main__":
    run(typer.run, main)
