"""What MLflow says of a run is what its published files say, whichever way they came here.

DVC restores files without running a stage: from its run cache, by ``dvc checkout``, ``dvc pull`` and ``dvc exp apply``.
So results are journaled from the files, not by the stage that made them, and again whenever the files differ from the
journal; and MLflow's run is then compared with the files (standing.py), because other machines write there too.

A run that was pulled has no journal on this machine, so one is begun from its files. MLflow's own run of that training
goes on with what comes after; where MLflow has none, one is made of the files and tagged ``genloom.made_from``.

Every evaluation is also kept as an artifact, evaluations/<hash>.json, with its protocol; the tag ``evaluation`` names
the one that stands.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.inference.published import run_of, trainings
from pipeline.render.curves import read_history
from pipeline.tracking import journal, sender
from pipeline.tracking.journal import BusyError, Journal
from pipeline.tracking.outages import is_away, remember_silence
from pipeline.tracking.pages import View, find_links
from pipeline.tracking.record import read_train_json
from pipeline.tracking.references import (
    PUBLISHED,
    RUNS,
    Reference,
    find_journal,
    journal_folder,
    journals_of,
    list_journals,
    published_trainings,
)
from pipeline.tracking.sender import ORIGIN
from pipeline.tracking.shipped import Shipped, is_synced
from pipeline.tracking.standing import EVALUATION, FINAL_SAMPLES, PICTURES, Standing, read_standing
from pipeline.tracking.target import NO_ANSWER, find_outage, reason, resolve

_logger = logging.getLogger(__name__)
_COST = ("seconds", "images_per_second", "wait_share", "peak_memory_bytes")  # of train.json


def send_results(published: Path, params: Params, seconds: Mapping[str, float] | None = None) -> None:
    """Journal what stands in a training's published folder and send it; never raise for MLflow's or the files' sake.

    Args:
        published: Its folder in out/runs.
        params: The project's params.
        seconds: What stages took for it now, by their names; as cost/<stage>_seconds in MLflow.
    """
    journals = journals_of(params)
    try:
        folder, standing = update_journal(published, params)
        if seconds:  # opening a journal reads all of it
            _record_seconds(folder, standing, seconds)
        if not is_away(resolve(params.tracking), journals, "all runs"):
            sender.agree(folder, params.tracking, standing=standing)
    except BusyError:
        _logger.info("%s: another process is sending it to MLflow; `genloom sync` brings what it does not", published)
    except UserError as error:
        if str(error).endswith(NO_ANSWER):
            remember_silence(resolve(params.tracking), journals)
        _logger.warning(f"tracking: {str(error).rstrip('.')}. `genloom sync` sends {published.name} later.")


def send_run(run: Path, params: Params, seconds: Mapping[str, float]) -> None:
    """Do what ``send_results`` does for each training of a run; ``seconds`` are what stages took for all of them."""
    published = trainings(run)
    for training in published:
        send_results(training, params, {stage: taken / len(published) for stage, taken in seconds.items()})


def note_seconds(published: Path, params: Params, seconds: Mapping[str, float]) -> None:
    """Journal what stages took for a training, by their names; the next stage that sends results sends it too."""
    try:
        folder, standing = update_journal(published, params)
        _record_seconds(folder, standing, seconds)
    except UserError as error:
        _logger.info("%s", error)


def _record_seconds(folder: Path, standing: Standing, seconds: Mapping[str, float]) -> None:
    with Journal.open(folder) as opened:
        opened.metrics({f"cost/{stage}_seconds": taken for stage, taken in seconds.items()}, step=standing.step)


def send_all_results(params: Params, view: View | None = None) -> dict[str, str]:
    """Do for every published training what ``send_results`` does for one; say, even again, if MLflow does not answer.

    Args:
        params: The project's params.
        view: What MLflow's table of the experiment shows to whom follows the links; None: what it does by itself.

    Returns:
        Links by their titles: to the table, and to the comparison of all published runs. None where nothing answers.
    """
    if is_away(resolve(params.tracking), journals_of(params), "all runs", always=True):
        update_journals(params)
        return {}
    for published in published_trainings():
        send_results(published, params)
    try:
        return find_links(params, published_trainings(), view)
    except Exception as error:  # whatever a server or a database raises: links are no reason to fail
        _logger.info("no links into MLflow: %s", reason(error))
        return {}


def update_journals(params: Params) -> list[str]:
    """Bring the journal of every published training up to its files.

    Args:
        params: The project's params.

    Returns:
        What went wrong, a sentence for each training.
    """
    problems = []
    for published in published_trainings():
        try:
            update_journal(published, params)
        except UserError as error:
            problems.append(str(error))
    return problems


@dataclass(kw_only=True)
class Outcome:
    """What ``synchronize`` did with a run.

    Attributes:
        run: the folder of its journal, or of its files.
        sent: whether MLflow lacked something.
        corrected: what MLflow said otherwise, and now says as the files do.
        notes: what a person should know.
        problem: why it was not sent.
    """

    run: str
    sent: bool = False
    corrected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None


def synchronize(params: Params, everything: bool = False) -> Iterator[Outcome]:
    """Make MLflow agree with out/runs and with the journals, run by run.

    Args:
        params: The project's params.
        everything: Send all of every journal again, which changes nothing that MLflow has.

    Yields:
        What was done, for every published run and every other journal; at last what is not sent, and why.

    Raises:
        UserError: MLflow does not answer.
    """
    target = resolve(params.tracking)
    if problem := find_outage(target):
        raise UserError(f"MLflow at {target.shown} can't be reached: {problem}. Start it, or set tracking.uri.")
    done = set()
    for published in published_trainings():
        outcome = Outcome(run=published.as_posix())
        with _telling(outcome):
            trained = read_train_json(published)
            folder = _journal_of(published, trained, params)
            outcome.run = folder.name
            done.add(folder)
            _agree(outcome, folder, params, everything, _update(folder, published, trained))
        yield outcome
    for folder in list_journals(params):
        if folder not in done:
            outcome = Outcome(run=folder.name)
            with _telling(outcome):
                _agree(outcome, folder, params, everything, None)
            yield outcome
    yield from _left_out(params)


@contextmanager
def _telling(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except BusyError as error:  # such as a training's own shipper
        outcome.sent = False
        outcome.notes.append(str(error))
    except UserError as error:
        outcome.problem = str(error)


def _agree(outcome: Outcome, folder: Path, params: Params, everything: bool, standing: Standing | None) -> None:
    outcome.sent = everything or not is_synced(folder, params.tracking)
    if outcome.sent or standing is not None:
        outcome.corrected, outcome.notes = sender.agree(folder, params.tracking, everything, standing)
    refused = Shipped.read(folder, resolve(params.tracking)).refused
    outcome.notes += [f"refused by MLflow: {reason}" for reason in refused]


def _left_out(params: Params) -> Iterator[Outcome]:
    """Yield what looks like a run and is not sent."""
    root = journals_of(params)
    for path in sorted(root.rglob(journal.NAME)):
        folder = path.parent
        if folder.parent != root:
            why = f"a run's folder lies right below {root}; this journal is of a name with '/': rename it"
            yield Outcome(run=folder.relative_to(root).as_posix(), problem=f"{path}: not sent: {why}.")
        elif journal.started(folder) is None:
            yield Outcome(run=folder.name, problem=f"{path}: not sent: it does not say of which run it is; remove it.")
    for path in sorted(RUNS.glob("*/metrics.json")):
        if not (path.parent / PUBLISHED).exists():
            why = f"{path.parent / PUBLISHED} is not there; `dvc checkout` or `dvc pull` brings it"
            yield Outcome(run=path.parent.name, problem=f"{path}: not sent: {why}.")


def update_journal(published: Path, params: Params) -> tuple[Path, Standing]:
    """Journal a training's published results where the journal says something else.

    Args:
        published: Its folder in out/runs.
        params: The project's params.

    Returns:
        The journal's folder, and what stands in the published one.

    Raises:
        BusyError: Another process writes the journal.
        UserError: The files or the journal cannot be read.
    """
    trained = read_train_json(published)
    folder = _journal_of(published, trained, params)
    return folder, _update(folder, published, trained)


def _update(folder: Path, published: Path, trained: dict[str, Any]) -> Standing:
    standing = read_standing(published, trained)
    known = journal.summary(folder)
    with Journal.open(folder) as opened:
        if known is None or (known["restored"] and known["status"] == "RUNNING"):  # the second: a crash in the midst
            _restore(opened, published, trained)
        _record_results(opened, standing)
    return standing


def _journal_of(published: Path, trained: dict[str, Any], params: Params) -> Path:
    """Return the folder of the training's journal, which need not exist."""
    name = run_of(published).name
    known = find_journal(Reference(run=name, key=trained["key"]), params)
    return known or journal_folder(params, name, trained["key"])


def _restore(opened: Journal, published: Path, trained: dict[str, Any]) -> None:
    """Journal the training that another machine did, from its files."""
    about = {name: trained[name] for name in ("key", "params", "dataset")}
    opened.start(name=run_of(published).name, **about, tags={ORIGIN: "published files"}, restored=True)
    rows: dict[int, dict[str, float]] = {}
    for name, points in read_history(published / "history.csv").items():
        for seen, value in points:
            rows.setdefault(seen, {})[name] = value
    for seen, row in rows.items():
        opened.metrics(row, step=seen, once=True)
    for path in sorted((published / "snapshots").glob("*.png")):
        opened.image("samples", path, step=int(path.stem))
    cost = {name: trained[name] for name in _COST if name in trained}
    opened.metrics({f"cost/{name}": value for name, value in cost.items()}, step=trained["seen"])
    for name in ("history.csv", "weights.safetensors"):
        if (published / name).exists():
            opened.artifact(published / name)
    if (published / "weights.safetensors").exists():
        opened.model(published / "weights.safetensors")
    opened.finish("FINISHED")


def _record_results(opened: Journal, standing: Standing) -> None:
    """Journal scores with their protocol, and pictures, as far as they are there."""
    if standing.metrics is not None:
        opened.metrics(standing.metrics, step=standing.step)
        evaluation = {"metrics": standing.metrics, "protocol": standing.protocol}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{standing.tags[EVALUATION]}.json")
            path.write_text(json.dumps(evaluation, indent=2, sort_keys=True) + "\n")
            opened.artifact(path, "evaluations")
    if standing.pictures:
        opened.image(FINAL_SAMPLES, standing.pictures[0], step=standing.step)
        for path in standing.pictures:
            opened.artifact(path, PICTURES)
    opened.tags(dict(standing.tags) | standing.superseded(opened.known_tags()))
