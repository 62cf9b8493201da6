"""Stage normalize: out/raw to out/data."""

import typer

from pipeline.config import read_params
from pipeline.console import progress
from pipeline.errors import run
from pipeline.stages.paths import DATA, RAW


def main() -> None:
    """Convert the images in out/raw to one shape (data.channels, data.size) and write them to out/data.

    If the source has no test split, data.test_fraction of each class is held out.
    """
    from pipeline.ingest import sources
    from pipeline.ingest.normalize import normalize

    data = read_params().data
    with sources.find(data.source).open(RAW) as raw, progress() as report:
        normalize(
            raw,
            DATA,
            source=data.source,
            channels=data.channels,
            size=data.size,
            test_fraction=data.test_fraction,
            report=report,
        )


if __name__ == "__main__":
    run(typer.run, main)
