"""What training and the stages after it write into a run's journal."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.tracking.journal import Journal
from pipeline.tracking.shipper import shipping


def record(journal: Journal, rows: Iterable[Mapping[str, Any]], snapshots: Path) -> None:
    """Write training's rows into the journal; one that it has already (a resume repeats some) is dropped.

    Args:
        journal: open.
        rows: each with seen, time, values and snapshot.
        snapshots: the folder of the pictures that rows name.
    """
    for row in rows:
        journal.metrics(row["values"], step=row["seen"], once=True, time=row["time"])
        if row["snapshot"]:
            journal.image("samples", snapshots / row["snapshot"], step=row["seen"])


def read_train_json(folder: Path) -> dict[str, Any]:
    """Return what the train stage published of a run; UserError where it cannot be read."""
    path = folder / "train.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro train@{folder.name}` to make it.") from error
    return content


@contextmanager
def reopen(published: Path, scratch: Path, tracking: Tracking) -> Iterator[Journal]:
    """Open the journal of a trained run for what comes after training, and ship it to the run's own MLflow run.

    Args:
        published: the run's folder in out/runs.
        scratch: the folder of all runs' journals and checkpoints.
        tracking: where MLflow is.

    Yields:
        The journal; at the end it is closed, as FAILED if the block raised.
    """
    trained = read_train_json(published)
    name, key = published.name, trained["key"]
    folder = run_scratch(scratch, name, key)
    with Journal.open(folder) as journal:
        journal.start(name=name, key=key, params=trained["params"], tags={}, dataset=trained["dataset"])
    with shipping(folder, tracking), Journal.open(folder) as journal:
        try:
            yield journal
        except BaseException:
            journal.finish("FAILED")
            raise
        journal.finish("FINISHED")


def run_scratch(scratch: Path, name: str, key: str) -> Path:
    """Return the folder of a result's journal: outside the outs, which DVC deletes before a rerun.

    Args:
        scratch: of the project.
        name: the run's.
        key: of the result.

    Returns:
        The folder, which need not exist.
    """
    return scratch / "runs" / f"{name}-{key[:16]}"
