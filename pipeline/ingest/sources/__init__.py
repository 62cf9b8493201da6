"""Sources that data.source can name: one file each, which defines SOURCE."""

from pathlib import Path

from pipeline import registry
from pipeline.config import Data
from pipeline.ingest.listing import LISTING, is_url
from pipeline.ingest.source import Origin, Report, Source, silent


def names() -> list[str]:
    """List every source: the files of this folder."""
    return registry.names(__name__)


def find(name: str) -> Source:
    """Return the source in the file of that name; UserError where there is none."""
    source: Source = registry.load(__name__, name, "params.yaml: data.source").SOURCE
    return source


def origin_of(data: Data, folder: Path, scratch: Path, report: Report = silent) -> Origin:
    """Return where the source of params.yaml gets its files from.

    Args:
        data: the section.
        folder: the project's, from which relative paths count.
        scratch: the folder of downloads, below it.
        report: called with the progress.

    Returns:
        The origin.
    """
    mirror = data.mirror if data.mirror is None or is_url(data.mirror) else str(folder / data.mirror)
    return Origin(
        paths=tuple(map(find(data.source).address, data.paths)),
        folder=folder,
        listing=LISTING / f"{data.source}.csv",
        labels=data.labels,
        mirror=mirror,
        downloads=scratch / "downloads" / data.source,
        report=report,
    )
