"""Sources that data.source can name: one file each, which defines SOURCE."""

from pipeline import registry
from pipeline.ingest.source import Source


def names() -> list[str]:
    """List every source: the files of this folder."""
    return registry.names(__name__)


def find(name: str) -> Source:
    """Return the source in the file of that name; UserError where there is none."""
    source: Source = registry.load(__name__, name, "params.yaml: data.source").SOURCE
    return source
