"""Stages own and published (data/dvc.yaml): what lies at data.path to out/listing, for every source a file."""

import logging

from pipeline.config import Params, read_params
from pipeline.console import progress
from pipeline.errors import UserError
from pipeline.files import project_root
from pipeline.ingest import sources
from pipeline.ingest.listing import LISTING, listed_before, read_listing, write_listing
from pipeline.stages.common import scratch
from pipeline.stages.entry import run_stage
from pipeline.stages.origin import origin_of
from pipeline.stages.paths import RAW

logger = logging.getLogger("pipeline.stages.listing")


def main(names: list[str]) -> None:
    """Write the listings of these sources: the files at data.path if it is the one in use and of one's own, else none.

    Where the files are not at hand, as in a clone after `dvc pull`, the listing is that of the last time.
    """
    params = read_params()
    for name in names:
        if name == params.data.source and sources.find(name).own:
            _list(params)
        else:
            write_listing(LISTING / f"{name}.csv", [])


def _list(params: Params) -> None:
    from pipeline.ingest.originals import list_files

    paths = origin_of(params).paths
    try:
        with progress() as report:
            files = list_files(paths, project_root(), scratch(params) / "hashes.sqlite", report)
    except UserError as error:
        before = listed_before(RAW, paths)
        if before is None:
            raise
        logger.warning("%s The listing of the last time stands.", error)
        files = read_listing(before)
    write_listing(LISTING / f"{params.data.source}.csv", files)


if __name__ == "__main__":
    run_stage(main)  # needs nothing, but has what the stages before it have loaded
