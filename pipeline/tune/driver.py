"""A search from its start to its end, on Ray Tune: trials run in reused actors, and the record is the truth.

Every call starts Ray Tune anew, under a new name: the searcher and the scheduler are fed from the record, interrupted
trials go on from their training's own checkpoints, and what Ray Tune itself kept is never read (its ``Tuner.restore``
forgets what the scheduler saw, and trials that had not begun).
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.cluster.connect import connect
from pipeline.cluster.driver import rays_environment
from pipeline.cluster.launch import stop_on_signals
from pipeline.config import PARAMS, Cluster, Search
from pipeline.errors import UserError
from pipeline.training.prepare import prepared
from pipeline.tune.chooser import Chooser
from pipeline.tune.record import Record
from pipeline.tune.results import Progress
from pipeline.tune.trial import Task, rungs_of
from pipeline.tune.workers import Share

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # trials stop at a checkpoint, as the record has them
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# How often Ray hears of free resources. On a machine of its own, which trains one thing, that may be rare; a search of
# short trials would wait for each second actor until another trial has ended.
NEWS = ("RAY_raylet_report_resources_period_milliseconds", "RAY_gcs_pull_resource_loads_period_milliseconds")
NEWS_SECONDS = 2.0  # between two tellings of what is new
SPEND_SECONDS = 5.0  # between two notes of the time spent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the cluster gives each process of a trial, and how many trials at a time."""

    share: Share
    concurrent: int


def search_on_ray(task: Task, record: Record, news: Callable[[], None] = lambda: None) -> bool:
    """Do a search, from where its record is to the end of its budget.

    Args:
        task: what all trials have in common.
        record: of the search, open.
        news: called now and then when the record has grown.

    Returns:
        Whether it came to its end: False if it was stopped by a signal.

    Raises:
        UserError: the cluster can never give what a trial asks for.
    """
    search = task.search
    chooser = Chooser(search, [objective.better for objective in task.objectives])
    chooser.replay(record)
    if not _more_to_do(search, record):
        return True
    task.stop_request.unlink(missing_ok=True)
    clock = _Clock(record)
    if search.seconds is not None:
        task = replace(task, deadline=clock.begun + search.seconds - clock.before)
    cluster = task.params.cluster
    with stop_on_signals() as stop, tunes_environment(cluster), connect(cluster) as resources:
        room = room_of(task.name, search, cluster, resources)
        told = [len(record.events), time.monotonic()]

        def may_begin() -> bool:
            return not stop() and _within(search, record, clock.seconds(), room)

        def each_round() -> None:
            clock.seconds()
            if stop():
                task.stop_request.touch()
            if len(record.events) > told[0] and time.monotonic() - told[1] > NEWS_SECONDS:
                told[:] = [len(record.events), time.monotonic()]
                news()

        run = _run_population if search.scheduler == "pbt" else _run
        run(task, record, chooser, room, may_begin, each_round)
        clock.note()
    return not stop()


def tunes_environment(cluster: Cluster) -> AbstractContextManager[None]:
    """Return a context in which Ray's variables are those of a search."""
    return rays_environment(cluster, more=TUNE_ENVIRONMENT, but=NEWS)


class _Clock:
    """Seconds of searching, over all calls, noted in the record now and then."""

    def __init__(self, record: Record) -> None:
        self.record, self.begun, self.before = record, time.time(), record.seconds
        self.noted = self.before

    def seconds(self) -> float:
        """Return the seconds so far, and note them every few seconds."""
        now = self.before + time.time() - self.begun
        if now - self.noted >= SPEND_SECONDS:
            self.note()
        return now

    def note(self) -> None:
        """Write the seconds so far into the record."""
        self.noted = self.before + time.time() - self.begun
        self.record.spend(self.noted)


def _more_to_do(search: Search, record: Record) -> bool:
    """Return whether a search whose record is at hand has a trial left, as far as is known without its searcher."""
    if not _within(search, record, record.seconds, None):
        return False
    waiting = any(trial.state is None for trial in record.trials.values())
    return waiting or search.trials is None or len(record.trials) < search.trials


def _within(search: Search, record: Record, seconds: float, room: Room | None) -> bool:
    """Return whether the budget lets another trial begin."""
    gpus = room.share.gpus * room.share.workers if room else 1.0
    used = sum(trial.seconds for trial in record.trials.values()) * gpus / 3600
    limits = ((search.images, record.images), (search.seconds, seconds), (search.gpu_hours, used))
    return all(limit is None or spent < limit for limit, spent in limits)


def room_of(name: str, search: Search, cluster: Cluster, resources: dict[str, float]) -> Room:
    """Return what trials get on the cluster to which this process is connected.

    Args:
        name: the run's.
        search: says what each process of a trial asks for.
        cluster: says how many processes a trial has.
        resources: of the cluster, by Ray's names.

    Returns:
        The room: as many processes for each trial as fit, and then as many trials.

    Raises:
        UserError: no node can ever give it.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = search.gpus_per_trial if search.gpus_per_trial is not None else float(resources.get("GPU", 0) > 0)
    each = {"CPU": float(search.cpus_per_trial), "GPU": gpus}
    for resource, key in (("CPU", "cpus_per_trial"), ("GPU", "gpus_per_trial")):
        most = max(node.get(resource, 0.0) for node in nodes)
        if each[resource] > most:
            raise UserError(
                f"{PARAMS}: search.{name}.{key}: a trial asks for {each[resource]:g}, and no machine of the cluster "
                f"has more than {most:g}. Lower it, or join a larger cluster with cluster.address."
            )
    fit = sum(_fitting(each, node) for node in nodes)
    least, most = max(cluster.least, 1), max(cluster.most, 1)
    if fit < least:
        amounts = " and ".join(f"{amount:g} {resource}s" for resource, amount in each.items() if amount)
        raise UserError(
            f"{PARAMS}: cluster.workers: a trial takes {least} processes with {amounts} each, and the cluster has room "
            f"for {fit}. Lower cluster.workers, or search.{name}.cpus_per_trial, or join a larger cluster."
        )
    share = Share(workers=min(most, fit), cpus=search.cpus_per_trial, gpus=gpus)
    fit //= share.workers
    return Room(share=share, concurrent=min(search.concurrent or fit, fit))


def _fitting(each: dict[str, float], node: dict[str, float]) -> int:
    return int(min(node.get(name, 0.0) / amount for name, amount in each.items() if amount))


def _run(
    task: Task,
    record: Record,
    chooser: Chooser,
    room: Room,
    may_begin: Callable[[], bool],
    each_round: Callable[[], None],
) -> None:
    """Run Ray Tune until no trial runs and none will begin."""
    from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

    from pipeline.tune.ray_search import Remembering, scheduler_of

    search, storage, failures = task.search, task.folder / "ray", task.params.cluster.max_failures
    with prepared(task.name, task.params, out=task.out, scratch=task.scratch) as ready:
        rungs = rungs_of(ready.job, search)
    tell, at_once = Progress(task, record, room.concurrent).tell, room.concurrent
    searcher = Remembering(search, record, chooser, at_once, partial(_key, task), tell, may_begin, failures)
    tuner = Tuner(
        _trainable(task, room, min(at_once, searcher.at_most)),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler_of(search, task.objectives[0].better, record, len(rungs)),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,  # by its params, some would be too long
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex[:12],
            storage_path=str(storage),
            callbacks=[_watcher(each_round)],
            failure_config=FailureConfig(max_failures=0),  # trials begin again by the record
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the lines of a search say what ended, and why
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _run_population(
    task: Task,
    record: Record,
    chooser: Chooser,
    room: Room,
    may_begin: Callable[[], bool],
    each_round: Callable[[], None],
) -> None:
    """Train a population until it is at its end, or no more may begin."""
    import ray

    from pipeline.tune.generations import Hooks, Population, start_player

    start = partial(start_player, ray.put(task), room.share)  # once for all processes
    hooks = Hooks(may_begin=may_begin, each_round=each_round, ended=Progress(task, record, room.concurrent).tell)
    population = Population(task, record, start, room.concurrent, hooks)
    population.begin(chooser.next, partial(_key, task))
    population.train()


def _trainable(task: Task, room: Room, actors: int) -> Any:
    """Return what Ray runs trials in: so many processes, which start together."""
    from ray import tune

    from pipeline.tune.actor import Actor

    started = task.folder / "started"
    shutil.rmtree(started, ignore_errors=True)
    started.mkdir(parents=True)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(actors)  # with a searcher Ray's own is 1
    return tune.with_resources(
        tune.with_parameters(Actor, task=task, share=room.share, started=started, actors=actors),
        tune.PlacementGroupFactory(room.share.bundles),
    )


def _watcher(each_round: Callable[[], None]) -> Any:
    """Return a callback of Ray Tune's that calls a function whenever it has gone round once."""
    from ray.tune import Callback

    class Watcher(Callback):
        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            each_round()

    return Watcher()


def _key(task: Task, values: dict[str, Any]) -> str:
    """Return the key of the training with some params; "" where they do not fit together, which its trial says."""
    try:
        with prepared(task.name, task.with_values(values), out=task.out, scratch=task.scratch) as ready:
            return ready.job.key
    except UserError:
        return ""
