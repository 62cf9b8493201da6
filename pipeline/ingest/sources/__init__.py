"""One dataset per file, each with one SOURCE; the file name is the registry."""

import importlib
from pathlib import Path

from pipeline.errors import UserError, nearest
from pipeline.ingest.source import Source


def names() -> list[str]:
    """Every source: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def find(name: str) -> Source:
    """The source in the file of that name."""
    if name not in names():
        raise UserError(f"params.yaml: data.source: there is no source '{name}'. {nearest(name, names())}")
    source: Source = importlib.import_module(f"{__name__}.{name}").SOURCE
    return source
