"""A training from its start to its end, on Ray or in this process, with its journal open and MLflow fed."""

import logging
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config import Cluster, Params, Tracking
from pipeline.dependencies.key import TrainingKey, changed_cadences, differences
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.storage.remote import token_at
from pipeline.tracking.journal import Journal
from pipeline.tracking.progress import watching
from pipeline.tracking.record import record
from pipeline.tracking.references import journal_folder
from pipeline.tracking.shipped import run_page
from pipeline.tracking.shipper import shipping
from pipeline.tracking.tags import code_tags
from pipeline.training.job import DivergedError, Job
from pipeline.training.memory import out_of_memory, remedy_of
from pipeline.training.outcome import next_goal, until
from pipeline.training.prepare import Prepared
from pipeline.training.publish import Published, RunInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a training needs besides its job.

    Attributes:
        run: what it is called, and what it is of.
        key: what its keys are of.
        journal: the folder of its journal.
        dataset: what spec.json says of the data.
        cluster: where to train.
        tracking: where MLflow is.
    """

    run: RunInfo
    key: TrainingKey
    journal: Path
    dataset: Mapping[str, Any]
    cluster: Cluster
    tracking: Tracking


def launching(ready: Prepared, params: Params) -> Launch:
    """Return what a prepared training needs besides its job, as params.yaml has it."""
    return Launch(
        run=ready.run,
        key=ready.key,
        journal=journal_folder(params, ready.run.name, ready.key.digest),
        dataset=ready.dataset.info,
        cluster=params.cluster,
        tracking=params.tracking,
    )


def launch(job: Job, about: Launch, publish: Callable[[], Published] | None) -> None:
    """Train, then publish, with the journal open before and closed after, whatever happens.

    Args:
        job: the run; the caller holds its folder (``exclusive``).
        about: what it is called, and where it runs.
        publish: called once the training is finished; None: that is left to a later call.

    Raises:
        UserError: the training diverged, ran out of memory, or its storage or cluster cannot be used.
        SystemExit: it was stopped by a signal, at a checkpoint.
    """
    folder, run = about.journal, about.run
    with Journal.open(folder) as journal:
        journal.start(name=run.name, key=run.key, params=run.params, tags=code_tags(), dataset=dict(about.dataset))
    with shipping(folder, about.tracking):
        try:
            with watching(folder, run.name, job.finished_at, partial(run_page, folder, about.tracking)):
                train_job(job, about)
            if publish:
                published = publish()
                with Journal.open(folder) as journal:
                    _record_end(journal, job, published)
        except BaseException as error:
            with Journal.open(folder) as journal:
                journal.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise


def _record_end(journal: Journal, job: Job, published: Published) -> None:
    record(journal, published.history, job.snapshots)
    cost = {f"cost/{name}": value for name, value in published.cost.items() if name != "parameters"}
    journal.metrics(cost, step=published.seen)
    journal.artifact(published.folder / "history.csv")
    journal.artifact(published.folder / "weights.safetensors")
    journal.model(published.folder / "weights.safetensors")
    journal.finish("FINISHED")


@contextmanager
def exclusive(job: Job, about: Launch, since: float | None = None) -> Iterator[None]:
    """Hold a training's folder, so that one process trains it; another waits, and then goes on from what it left.

    While it waits it shows how far the other one is.

    Args:
        job: the run.
        about: what it is called.
        since: when this `dvc repro` began it in a process beside this one, in seconds since 1970: what that one has
            written is shown even if it has ended; None: it did not.
    """
    lock, name = Path(job.store) / "lock", about.run.name
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock))
            waits = False
        except BlockingIOError:
            waits = True
        if waits and since is None:
            logger.warning("%s: another process is training this very run; waiting until it is done", name)
        if waits or since is not None:
            # The page is said once, by who publishes.
            with watching(about.journal, name, job.finished_at, lambda: None, since):
                if waits:
                    held.enter_context(locked(lock, wait=None))
        yield


def train_job(job: Job, about: Launch) -> None:
    """Train to the end of the budget, on Ray or here, without a journal of the start and end.

    Args:
        job: the run; finished already, nothing is done.
        about: what it is called, and where it runs.

    Raises:
        UserError: it diverged or ran out of memory; or its storage or cluster cannot be used.
        SystemExit: it was stopped by a signal, at a checkpoint.
    """
    if job.url:
        with token_at(job.url, "preflight"):  # says within seconds what a training would wait for
            pass
    goal = next_goal(job)
    _say_where_it_begins(job, about, goal)
    while goal is not None:
        about.key.write(Path(job.store))
        _train_to(until(job, goal), about)
        before, goal = goal, next_goal(job)
        if goal == before:
            return  # publishing says that its checkpoint is not there whole


def _train_to(job: Job, about: Launch) -> None:
    """Train to the job's goal, or to a warning on which it stops; raises as ``train_job`` does."""
    try:
        with stop_on_signals() as stop:
            if about.cluster.most:
                from pipeline.cluster.driver import train_on_ray

                train_on_ray(job, about.cluster, about.journal, stop)
            else:
                _train_here(job, about, stop)
            if stop() and next_goal(job) is not None:
                raise SystemExit("stopped at a checkpoint; `dvc repro` goes on from it")
    except DivergedError as error:
        raise UserError(
            f"training diverged: {error}. Lower the learning rate (runs.<run>.lr), change the seed, or "
            f"have such steps left out (runs.<run>.non_finite: skip). {_what_is_left(job)}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        line = out_of_memory(error)
        if line is None:
            raise
        raise UserError(
            f"training needs more memory than there is ({line}). {remedy_of(line)} {_what_is_left(job)}"
        ) from error


def _what_is_left(job: Job) -> str:
    """Say where a training that ended early can be looked at, and whether there is a checkpoint."""
    seen, folder = job.storage.newest(job.finished_at), os.path.relpath(job.store)
    if seen is None:
        return f"It ended before its first checkpoint; its pictures are in {folder}/snapshots."
    return f"The last good checkpoint, at {seen:,} images, and the pictures are in {folder}."


def _say_where_it_begins(job: Job, about: Launch, goal: int | None) -> None:
    """Log from where training goes on; or why it starts anew, where an earlier training of this run is at hand."""
    name, folder = about.run.name, Path(job.store)
    newest = job.storage.newest((job.finished_at if goal is None else goal) + 1)
    if newest is not None:
        for cadence, every in changed_cadences(folder, about.key).items():
            logger.info("%s: what was made up to %s images keeps %s: %d", name, f"{newest:,}", cadence, every)
        if goal is None:
            logger.info("%s: this very training is finished: publishing the checkpoint in %s", name, folder)
        else:
            logger.info("%s: going on from the checkpoint at %s images", name, f"{newest:,}")
    elif beyond := job.storage.existing():
        places = ", ".join(f"{seen:,}" for seen in beyond)
        logger.info(
            "%s: starting at 0: of this training there are checkpoints at %s images, beyond its %s",
            name,
            places,
            f"{goal:,}",
        )
    elif others := earlier_trainings(folder, name):
        latest = max(others, key=lambda path: path.stat().st_mtime)
        what = differences(latest, about.key) or ["nothing that its key names"]
        listed = ", ".join(what[:6]) + (f" and {len(what) - 6} more" if len(what) > 6 else "")
        logger.info("%s: starting at 0; the earlier training in %s differs in %s", name, latest.name, listed)


def earlier_trainings(folder: Path, name: str) -> list[Path]:
    """Return where checkpoints of a run's other trainings lie.

    Args:
        folder: of this one's checkpoints.
        name: the run's.

    Returns:
        Folders, in no order; those of an earlier version of Genloom, which kept them with the journals, too.
    """
    found = [*folder.parent.glob(f"{name}-*"), *(folder.parents[1] / "runs").glob(f"{name}-*")]
    own = re.compile(re.escape(name) + "-[0-9a-f]{16}")  # not of a run whose name goes on after this one's
    return [path for path in found if path != folder and own.fullmatch(path.name) and any(path.glob("checkpoints/*"))]


def _train_here(job: Job, about: Launch, stop: Callable[[], bool]) -> None:
    """Run the same loop in this process, without Ray."""
    from pipeline.cluster.here import computing_here
    from pipeline.core.world import World
    from pipeline.training.trainer import train

    with computing_here(about.cluster) as device, Journal.open(about.journal) as journal:
        train(job, World(device=device), lambda rows: record(journal, rows, job.snapshots), stop)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM and Ctrl-C ask the loop to end at its next log window; a second one ends at once.

    Yields:
        A function that tells whether it was asked.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
