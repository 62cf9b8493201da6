"""Stage own (data/dvc.yaml): what lies at data.path to out/listing; stage published: nothing, for all other sources."""

import logging
from pathlib import Path

import typer

from pipeline.config import read_params
from pipeline.console import progress
from pipeline.errors import UserError, run
from pipeline.files import project_root
from pipeline.ingest import sources
from pipeline.ingest.listing import LISTING, write_listing
from pipeline.stages.common import scratch

logger = logging.getLogger("pipeline.stages.listing")


def main(name: str) -> None:
    """List the files of a source: those at data.path of a source of one's own, none of a published one.

    Where they are not at hand, as in a clone after `dvc pull`, the listing stays that of the last time.
    """
    if not sources.find(name).own:
        write_listing(LISTING / f"{name}.csv", [])
        return
    from pipeline.ingest.originals import list_files

    params = read_params()
    target = LISTING / f"{name}.csv"
    try:
        with progress() as report:
            files = list_files(params.data.paths, project_root(), scratch(params) / "hashes.sqlite", report)
    except UserError as error:
        if not target.exists():
            raise
        logger.warning("%s The listing of the last time stands.", error)
        return
    write_listing(Path(target), files)


if __name__ == "__main__":
    run(typer.run, main)
