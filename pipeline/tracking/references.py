"""Which training a published run is of, by name and key, and which MLflow run has it.

The key, a hash of all that determines a training, is in out/runs/<run>/train.json, in the journal and in MLflow's
tags, so no file has to say which MLflow run is meant.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params
from pipeline.errors import UserError, nearest
from pipeline.files import project_root
from pipeline.inference.published import trainings
from pipeline.tracking import journal
from pipeline.tracking.queries import by_key, fetch_runs
from pipeline.tracking.shipped import Shipped, last_sent
from pipeline.tracking.target import resolve

RUNS = Path("out/runs")
PUBLISHED = "train.json"


def published_trainings() -> Iterator[Path]:
    """Yield the folders of all trainings in out/runs: of a run with several seeds the first one's first."""
    for path in sorted(RUNS.glob(f"*/{PUBLISHED}")):
        yield from (place for place in trainings(path.parent) if (place / PUBLISHED).is_file())


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A training and where MLflow has it; run_id and experiment are None if that is not known here."""

    run: str
    key: str
    run_id: str | None = None
    experiment: str | None = None

    def is_same_training(self, other: "Reference") -> bool:
        """Return whether both mean the same training, wherever MLflow has it."""
        return (self.run, self.key) == (other.run, other.key)


def read_published(path: Path, params: Params) -> Reference | None:
    """Return the training that a train.json is of; None if the file is absent or not readable."""
    try:
        content = json.loads(path.read_text())
        training = Reference(run=content["run"], key=content["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    folder = find_journal(training, params)
    return (read_journaled(folder) if folder else None) or training


def read_journaled(folder: Path) -> Reference | None:
    """Return the training that a journal is of, with the MLflow run it was last sent to; None without a journal."""
    start = journal.started(folder)
    if start is None:
        return None
    run_id, experiment = last_sent(folder) or (None, None)
    return Reference(run=start["name"], key=start["key"], run_id=run_id, experiment=experiment)


def journals_of(params: Params) -> Path:
    """Return the folder that holds a folder for each journal: outside the outs, which DVC deletes before a rerun."""
    return project_root() / params.cluster.scratch / "runs"


def journal_folder(params: Params, name: str, key: str) -> Path:
    """Return the folder of a result's journal, which need not exist.

    Args:
        params: The project's params.
        name: The run's.
        key: Of the result.

    Returns:
        The folder.
    """
    return journals_of(params) / f"{name}-{key[:16]}"


def list_journals(params: Params) -> Iterator[Path]:
    """Yield the folders that hold the project's journals, in the order of their names."""
    for path in sorted(journals_of(params).glob(f"*/{journal.NAME}")):
        yield path.parent


def find_journal(training: Reference, params: Params) -> Path | None:
    """Return the folder of the training's journal; None if it is not on this machine."""
    for folder in list_journals(params):
        start = journal.started(folder)
        if start and (start["name"], start["key"]) == (training.run, training.key):
            return folder
    return None


def find_run_id(name: str, params: Params) -> str:
    """Return MLflow's id of a run: of its published training, else of its newest journal.

    Args:
        name: A run of params.yaml.
        params: The project's params.

    Returns:
        The id.

    Raises:
        UserError: There is no training of that run, MLflow does not have it, or MLflow can't be reached.
    """
    training = read_published(RUNS / name / PUBLISHED, params) or _newest_journaled(name, params)
    if training is None:
        hint = f"Run `dvc repro train@{name}`." if name in params.runs else nearest(name, params.runs)
        raise UserError(f"{name}: no training of this run is here. {hint}")
    target, folder = resolve(params.tracking), find_journal(training, params)
    if folder and (run_id := Shipped.read(folder, target).run_id):
        return run_id
    for found in fetch_runs(params.tracking, by_key(training.run, training.key)):
        return str(found["run_id"])
    raise UserError(
        f"{name}: MLflow at {target.shown} does not have this training ({training.key[:16]}); `genloom sync` sends it."
    )


def find_page(name: str, params: Params) -> str:
    """Return where a person sees a run in MLflow: a URL; for a database the address that `genloom ui` serves.

    Args and errors are those of ``find_run_id``.
    """
    return resolve(params.tracking).page(find_run_id(name, params))


def _newest_journaled(name: str, params: Params) -> Reference | None:
    folders = sorted(list_journals(params), key=lambda folder: (folder / journal.NAME).stat().st_mtime, reverse=True)
    found = (read_journaled(folder) for folder in folders)
    return next((training for training in found if training and training.run == name), None)
