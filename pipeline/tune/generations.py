"""A population trained on Ray, rung by rung: its members in processes that take one after another, as many as fit.

Without Ray Tune: its own population-based training judges a member as soon as it is at a rung, by whatever the others
have said until then, and restarts the donor too; here a rung is over when all are there, so that a search with the same
seed hands over the same checkpoints, however fast its trials were, and whatever was killed on the way.
"""

import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.training.prepare import prepared
from pipeline.tune.population import handover, member_key, member_of, pairs
from pipeline.tune.record import Record, Trial
from pipeline.tune.results import shown_params
from pipeline.tune.seat import Seat
from pipeline.tune.trial import Member, Report, Task, rungs_of
from pipeline.tune.workers import Share

POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Player(Seat):
    """Trains one member after another, each up to a rung."""

    def advance(self, values: dict[str, Any], member: Member, rung: int) -> Report:
        """Train a member to a rung and score it there; what goes wrong with it is its own end."""
        try:
            trial = self.trial(values, member)
        except Exception as error:  # such as params that fit each by itself, but not together
            return Report(state="failed", reason=str(error))
        try:
            trial.next = rung
            return trial.advance()
        finally:
            trial.close()


@dataclass(frozen=True)
class Process:
    """A ``Player`` in a process of Ray's, and the room that Ray has reserved for it and its helpers."""

    actor: Any
    room: Any = None

    def release(self) -> None:
        """End it, and its helpers."""
        ray.kill(self.actor)
        if self.room is not None:
            ray.util.remove_placement_group(self.room)


def start_player(task: Any, share: Share) -> Process:
    """Start a process that trains members, with the other processes of each.

    Args:
        task: a reference to what all members have in common.
        share: of each process.

    Returns:
        It; the first call waits until it is there.
    """
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
    room = None
    if share.workers > 1:
        room = ray.util.placement_group(share.bundles)
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            room, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
    return Process(ray.remote(Player).options(**options).remote(task, share), room)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a population asks and tells as it goes.

    Attributes:
        may_begin: whether another member may be trained further.
        each_round: called twice a second.
        ended: told of each trial that has ended.
    """

    may_begin: Callable[[], bool]
    each_round: Callable[[], None]
    ended: Callable[[Trial], None]


class Population:
    """The members of a search, and the processes that train them.

    Args:
        task: what all members have in common.
        record: of the search; it goes on from there.
        start: starts a process.
        concurrent: processes at a time.
        hooks: what it asks and tells.
    """

    def __init__(self, task: Task, record: Record, start: Callable[[], Process], concurrent: int, hooks: Hooks) -> None:
        self.task, self.record, self.start, self.concurrent, self.hooks = task, record, start, concurrent, hooks
        self.idle: list[Process] = []
        self.deaths = Counter[int]()

    def begin(self, choose: Callable[[], dict[str, Any] | None], key_of: Callable[[dict[str, Any]], str]) -> None:
        """Draw the members that the record does not have yet.

        Args:
            choose: gives the params of the next one.
            key_of: the key of a run's training with some params.
        """
        while len(self.record.trials) < (self.task.search.trials or 0) and (values := choose()) is not None:
            number = len(self.record.trials)
            self.record.begin(values, member_key(self.task, number, key_of(values)))

    def train(self) -> None:
        """Train all to the end, or until no more may begin."""
        search = self.task.search
        with prepared(self.task.name, self.task.params, out=self.task.out, scratch=self.task.scratch) as ready:
            rungs = rungs_of(ready.job, search)
        for place, images in enumerate(rungs):
            if images in self.record.judged:
                continue
            due = [t for t in self._living() if t.fallen is None and t.reached < images]
            if not self._train_to(due, place):
                return
            if place + 1 < len(rungs):
                self._judge(images)
            for trial in self._living():
                if trial.fallen is not None and (place + 1 == len(rungs) or not self._any_stands()):
                    self._end(trial, trial.fallen.state, trial.fallen.reason)

    def _living(self) -> list[Trial]:
        return [trial for trial in self.record.trials.values() if trial.state is None]

    def _any_stands(self) -> bool:
        return any(trial.fallen is None for trial in self._living())

    def _judge(self, images: int) -> None:
        """Let the worst at a rung take over from the best; each checkpoint is there before the record says so."""
        better = self.task.objectives[0].better
        for taker, donor in pairs(self.task.search, better, self._living(), images):
            if any(handed.images == images for handed in taker.handovers):
                continue  # before an interruption
            why = f" ({taker.fallen.state}: {taker.fallen.reason})" if taker.fallen else ""
            handed, left = handover(self.task, taker, donor, images), Path(member_of(self.task, taker).folder)
            self.record.hand(handed)
            shutil.rmtree(left / "checkpoints", ignore_errors=True)  # no one goes on from there
            logger.info(
                "%s images: trial %d%s takes over from trial %d, with %s",
                f"{images:,}",
                taker.number,
                why,
                donor.number,
                shown_params(handed.after),
            )
        self.record.judge(images)

    def _train_to(self, due: Sequence[Trial], rung: int) -> bool:
        """Train members to a rung; return whether all of them are there, or have fallen."""
        waiting, busy, paused = deque(due), dict[Any, tuple[Process, Trial]](), False
        while waiting or busy:
            self.hooks.each_round()
            while waiting and len(busy) < self.concurrent:
                if not self.hooks.may_begin():
                    waiting.clear()
                    paused = True
                    break
                process, trial = self.idle.pop() if self.idle else self.start(), waiting.popleft()
                asked = process.actor.advance.remote(trial.params, member_of(self.task, trial), rung)
                busy[asked] = (process, trial)
            done, _ = ray.wait(list(busy), num_returns=1, timeout=POLL_SECONDS) if busy else ([], [])
            for asked in done:
                process, trial = busy.pop(asked)
                try:
                    paused |= self._take(trial, ray.get(asked))
                    self.idle.append(process)
                except ray.exceptions.RayError as error:
                    process.release()
                    self._lose(trial, error, waiting)
        return not paused

    def _take(self, trial: Trial, report: Report) -> bool:
        """Write down what came of a member at a rung; return whether it was paused before."""
        if report.values:
            self.record.value(trial.number, report.images, report.values, report.seconds)
        if report.state == "finished":
            self._end(trial, "finished", images=report.images, seconds=report.seconds)
        elif report.state is not None:
            self.record.fall(trial.number, report.state, report.reason, report.images, report.seconds)
        return report.paused

    def _lose(self, trial: Trial, error: Exception, waiting: deque[Trial]) -> None:
        """Let a member whose process died go on from its last checkpoint, but not for ever."""
        self.deaths[trial.number] += 1
        if self.deaths[trial.number] > self.task.params.cluster.max_failures:
            reason = f"its process died {self.deaths[trial.number]} times (cluster.max_failures)"
            self.record.fall(trial.number, "failed", reason)
            return
        logger.warning("trial %d: its process died; it goes on from its last checkpoint", trial.number)
        logger.debug("what Ray says of it", exc_info=error)
        waiting.append(trial)

    def _end(self, trial: Trial, state: Any, reason: str = "", images: int = 0, seconds: float = 0.0) -> None:
        self.record.end(trial.number, state, reason, images, seconds)
        self.hooks.ended(self.record.trials[trial.number])
