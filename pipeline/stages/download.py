"""Stage download: the source's files to out/raw."""

from pipeline.config import read_params
from pipeline.console import progress
from pipeline.files import atomic_folder
from pipeline.ingest import sources
from pipeline.ingest.listing import note_listing
from pipeline.stages.entry import run_stage
from pipeline.stages.origin import origin_of
from pipeline.stages.paths import RAW


def main() -> None:
    """Download the files of data.source to out/raw, complete and checked; of one's own images what they are.

    If that fails, out/raw stays as it was. Downloaded files, complete ones and parts, are kept in <scratch>/downloads,
    where the next call finds them.
    """
    params = read_params()
    source = sources.find(params.data.source)
    with progress(in_bytes=not source.own) as report, atomic_folder(RAW) as raw:
        origin = origin_of(params, report)
        source.download(origin, raw)
        if source.own and origin.listing:
            note_listing(raw, origin.listing, origin.paths)


if __name__ == "__main__":
    run_stage(main)  # needs nothing, but has what the stages before it have loaded
