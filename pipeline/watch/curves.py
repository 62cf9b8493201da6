"""The names by which measures stand among a training's curves: in history.csv, in the journal and in MLflow."""

from collections.abc import Mapping
from typing import Any

PREFIX = "watched/"


def in_curves(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what was watched at the end of a log window (job.Row), by the names of the curves; {} without a look."""
    return {f"{PREFIX}{name}": value for name, value in row.get("watched", {}).items()}
