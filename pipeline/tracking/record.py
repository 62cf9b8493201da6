"""What training writes into a run's journal; what comes after it is in agreement.py."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.tracking.journal import Journal
from pipeline.tracking.standing import warning_tags
from pipeline.watch.curves import in_curves


def record(journal: Journal, rows: Iterable[Mapping[str, Any]], snapshots: Path) -> None:
    """Write training's rows into the journal; one that it has already (a resume repeats some) is dropped.

    Args:
        journal: open.
        rows: each with seen, time, values and snapshot, and what was watched and warned of where somebody looked.
        snapshots: the folder of the pictures that rows name.
    """
    for row in rows:
        journal.metrics(row["values"], step=row["seen"], once=True, time=row["time"])
        journal.metrics(in_curves(row), step=row["seen"], once=True, time=row["time"])
        journal.tags(warning_tags(row.get("warnings", ())))
        if row["snapshot"]:
            journal.image("samples", snapshots / row["snapshot"], step=row["seen"])


def read_train_json(folder: Path) -> dict[str, Any]:
    """Return what the train stage published of a run; UserError where it cannot be read."""
    path = folder / "train.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if missing := {"key", "params", "dataset", "seen"} - content.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro train@{folder.name}` to make it.") from error
    return content
