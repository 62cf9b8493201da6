"""Stage `extractors`: what extractors need besides their code: a network that learns the data's classes, the hashes of
people's own programs, statistics of others."""

import typer

from pipeline.config import read_params
from pipeline.errors import run
from pipeline.stages.paths import DATA, EXTRACTORS


def main() -> None:
    """Write to out/extractors what evaluate.extractors and evaluate.statistics need, checked."""
    from pipeline.evaluate.extraction import prepare
    from pipeline.files import atomic_folder

    with atomic_folder(EXTRACTORS) as folder:
        prepare(folder, DATA, read_params().evaluate)


if __name__ == "__main__":
    run(typer.run, main)
