"""What MLflow says of a run is what its published files say, whichever way they came here.

DVC restores files without running a stage: from its run cache, by ``dvc checkout``, ``dvc pull`` and ``dvc exp apply``.
So results are journaled from the files, not by the stage that made them, and again whenever the files differ from the
journal. A run that was pulled has no journal on this machine: MLflow's own run of that training goes on, or, where
MLflow has none, one is made of the files, and a tag says so.

A metric of which there are several values at one step: the last one journaled stands. Every evaluation is also kept as
an artifact, evaluations/<hash>.json, with its protocol; the tag ``evaluation`` names the one that stands.
"""

import csv
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.files import project_root
from pipeline.tracking import sender
from pipeline.tracking.journal import Journal
from pipeline.tracking.queries import by_key, fetch_runs
from pipeline.tracking.record import read_train_json, run_scratch
from pipeline.tracking.references import PUBLISHED, RUNS, Reference, find_journal
from pipeline.tracking.shipped import is_synced
from pipeline.tracking.target import find_outage, resolve

EVALUATION, ORIGIN = "evaluation", "genloom.made_from"  # tags
SUPERSEDED = "superseded: the present evaluation does not measure this"
_PROTOCOL = "protocol."

_logger = logging.getLogger(__name__)


def send_results(name: str, params: Params) -> None:
    """Journal what stands in a run's published folder and send it; never raise for MLflow's sake.

    Args:
        name: The run's.
        params: The project's params.

    Raises:
        UserError: The published files cannot be read.
    """
    tracking, target = params.tracking, resolve(params.tracking)
    if problem := find_outage(target):
        _logger.warning(
            f"tracking: MLflow at {target.shown} does not answer ({problem}); `genloom sync` sends {name} later."
        )
        return
    try:
        folder = update_journal(RUNS / name, params)
        if not is_synced(folder, tracking):
            sender.sync(folder, tracking)
    except UserError as error:
        _logger.warning(f"tracking: {error} `genloom sync` sends {name} later.")


def send_all_results(params: Params) -> None:
    """Do for every published run what ``send_results`` does for one, with one word if MLflow does not answer."""
    target = resolve(params.tracking)
    if problem := find_outage(target):
        _logger.warning(f"tracking: MLflow at {target.shown} does not answer ({problem}); `genloom sync` sends later.")
        return
    for name in published_runs():
        send_results(name, params)


def update_journals(params: Params) -> list[str]:
    """Bring the journal of every published run up to its files.

    Args:
        params: The project's params.

    Returns:
        What went wrong, a sentence for each run.
    """
    problems = []
    for name in published_runs():
        try:
            update_journal(RUNS / name, params)
        except UserError as error:
            problems.append(str(error))
    return problems


def published_runs() -> Iterator[str]:
    """Yield the names of the runs in out/runs that are trained."""
    for path in sorted(RUNS.glob(f"*/{PUBLISHED}")):
        yield path.parent.name


def update_journal(published: Path, params: Params) -> Path:
    """Journal a run's published results where the journal says something else.

    Args:
        published: The run's folder in out/runs.
        params: The project's params; MLflow is asked if there is no journal.

    Returns:
        The journal's folder.

    Raises:
        UserError: The files or the journal cannot be read, or MLflow does not answer.
    """
    trained = read_train_json(published)
    name, key = published.name, trained["key"]
    folder = find_journal(Reference(run=name, key=key), params)
    if folder is None:
        folder = run_scratch(project_root() / params.cluster.scratch, name, key)
        known = fetch_runs(params.tracking, by_key(name, key))
        _begin_journal(folder, published, trained, in_mlflow=bool(known))
    with Journal.open(folder) as opened:
        _record_results(opened, published, trained["seen"])
    return folder


def _begin_journal(folder: Path, published: Path, trained: dict[str, Any], *, in_mlflow: bool) -> None:
    """Begin the journal of a training that another machine did; MLflow may have it from there."""
    about = {"name": published.name, "key": trained["key"], "params": trained["params"], "dataset": trained["dataset"]}
    with Journal.open(folder) as opened:
        if in_mlflow:
            opened.start(**about, tags={}, finished=True)
            return
        opened.start(**about, tags={ORIGIN: "published files"})
        for row in _read_history(published):
            seen = int(row.pop("seen"))
            opened.metrics(row, step=seen, once=True)
        for path in sorted((published / "snapshots").glob("*.png")):
            opened.image("samples", path, step=int(path.stem))
        cost = {name: trained[name] for name in ("seconds", "images_per_second", "peak_memory_bytes")}
        opened.metrics({f"cost/{name}": value for name, value in cost.items()}, step=trained["seen"])
        for name in ("history.csv", "weights.safetensors"):
            if (published / name).exists():
                opened.artifact(published / name)
        if (published / "weights.safetensors").exists():
            opened.model(published / "weights.safetensors")
        opened.finish("FINISHED")


def _record_results(opened: Journal, published: Path, seen: int) -> None:
    """Journal scores with their protocol, and pictures, as far as they are there."""
    scores, protocol = (_read_json(published / f"{name}.json") for name in ("metrics", "protocol"))
    if scores is not None and protocol is not None:
        opened.metrics(scores, step=seen)
        tags = {f"{_PROTOCOL}{name}": json.dumps(how, sort_keys=True) for name, how in protocol.items()}
        gone = {name for name in opened.known_tags() if name.startswith(_PROTOCOL)} - tags.keys()
        evaluation = json.dumps({"metrics": scores, "protocol": protocol}, indent=2, sort_keys=True)
        digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{digest}.json")
            path.write_text(evaluation + "\n")
            opened.artifact(path, "evaluations")
        opened.tags(tags | dict.fromkeys(gone, SUPERSEDED) | {EVALUATION: digest})
    if (published / "samples.png").exists():
        opened.image("final_samples", published / "samples.png", step=seen)
        for path in (published / "samples.png", *sorted((published / "panels").glob("*"))):
            opened.artifact(path, "pictures")


def _read_history(published: Path) -> Iterator[dict[str, float]]:
    path = published / "history.csv"
    try:
        with path.open() as file:
            for row in csv.DictReader(file):
                yield {name: float(value) for name, value in row.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc pull` or `dvc repro` to make it.") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro` to make it.") from error
    return content
