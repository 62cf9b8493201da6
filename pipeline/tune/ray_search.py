"""Between Ray Tune and a search: Ray asks for trials and says what came of them; the record and the chooser keep it."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from pipeline.config import Search
from pipeline.evaluate.metric import Better
from pipeline.tune.chooser import Chooser
from pipeline.tune.record import Record, Trial
from pipeline.tune.trial import Report

VALUE, RUNG = "objective", "rung_time"

logger = logging.getLogger(__name__)


class Remembering(Searcher):
    """Gives Ray first the trials that were interrupted, then those of the chooser; writes all that happens down.

    Args:
        search: says when it ends.
        record: of the search.
        chooser: that has learnt the record.
        concurrent: trials at a time: one is chosen only when there is room for it, so that it knows what others gave.
        key_of: the key of the training with some params.
        ended: is told of each trial that has ended.
        may_begin: says whether another trial may begin.
    """

    def __init__(
        self,
        search: Search,
        record: Record,
        chooser: Chooser,
        concurrent: int,
        key_of: Callable[[dict[str, Any]], str],
        ended: Callable[[Trial], None],
        may_begin: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.search, self.record, self.chooser, self.concurrent = search, record, chooser, concurrent
        self.key_of, self.ended, self.may_begin = key_of, ended, may_begin
        self.running: dict[str, int] = {}
        self.waiting = [trial.number for trial in record.trials.values() if trial.state is None]

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Take what Ray says of the objective, which this knows."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None while there is no room; FINISHED once no more will begin."""
        if len(self.running) >= self.concurrent:
            return None
        if not self.may_begin():
            return str(Searcher.FINISHED)
        if self.waiting:
            trial = self.record.trials[self.waiting.pop(0)]
        else:
            if self.search.trials is not None and len(self.record.trials) >= self.search.trials:
                return str(Searcher.FINISHED)
            values = self.chooser.next()
            if values is None:
                return str(Searcher.FINISHED)
            trial = self.record.begin(values, self.key_of(values))
        self.running[trial_id] = trial.number
        return {"trial": trial.number, "values": trial.params, "rungs": len(trial.values)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Write down a value."""
        report: Report = result["report"]
        if report.values:
            self.record.value(self.running[trial_id], report.images, report.values, report.seconds)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Write down how a trial ended; one that paused goes on with the next call."""
        number = self.running.pop(trial_id)
        if error or result is None:
            reason = "its process died more often than cluster.max_failures"
            self._end(number, Report(state="failed", reason=reason))
            return
        report: Report = result["report"]
        if report.values:
            self.record.value(number, report.images, report.values, report.seconds)
        if report.paused:
            return
        judged = "worse than others at this rung, by " + self.search.scheduler
        self._end(number, report if report.state else Report(state="pruned", reason=judged))

    def _end(self, number: int, report: Report) -> None:
        assert report.state is not None
        self.record.end(number, report.state, report.reason, report.images, report.seconds)
        trial = self.record.trials[number]
        self.chooser.tell(trial)
        self.ended(trial)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the record holds all."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, likewise."""


class Scheduler(TrialScheduler):
    """One of Ray's schedulers that knows what the record says, through its own methods.

    Args:
        inner: Ray's.
        record: of the search; its trials that have ended are told at once, the others when they go on.
        told: turns a trial's rung into a result as Ray has it.
    """

    def __init__(self, inner: Any, record: Record, told: Callable[[Trial], list[dict[str, Any]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inner, self.record, self.told = inner, record, told
        for trial in record.trials.values():
            if trial.state is not None:
                self._remember(_Past(f"past-{trial.number}"), trial)

    def _remember(self, of: Any, trial: Trial) -> None:
        self.inner.on_trial_add(None, of)
        for result in self.told(trial):
            self.inner.on_trial_result(None, of, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept what the search says; the inner one was made with it."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial, and what is known of it."""
        self._remember(trial, self.record.trials[trial.config["trial"]])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self.inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial goes on."""
        return str(self.inner.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on."""
        self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Pass on."""
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Pass on."""
        return str(self.inner.debug_string())


class _Past:
    """A trial of the record in the place of one of Ray's."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def scheduler_of(search: Search, better: Better, record: Record, rungs: int) -> TrialScheduler:
    """Return the scheduler of a search, which knows what the record says.

    ASHA's own rungs lie at powers of its factor, whatever the unit of time: so time here is factor^k at the k-th rung,
    and each of our rungs is one of ASHA's. The median rule would let trials wait for each other where it has seen too
    few (its ``min_time_slice`` is 0), which needs checkpoints of Ray's: never.

    Args:
        search: which one.
        better: which way the objective is better.
        record: of the search.
        rungs: how many there are, the end included.

    Returns:
        The scheduler.
    """
    plan: dict[str, Any] = {"time_attr": RUNG, "metric": VALUE, "mode": "min" if better == "lower" else "max"}
    if search.scheduler == "asha":
        last = search.reduction ** (rungs - 1)
        inner: Any = AsyncHyperBandScheduler(
            **plan, grace_period=1, max_t=last * search.reduction - 1, reduction_factor=search.reduction
        )
    elif search.scheduler == "median":
        inner = MedianStoppingRule(**plan, grace_period=1, min_time_slice=sys.maxsize)
    else:
        inner = FIFOScheduler()  # type: ignore[no-untyped-call]
    return Scheduler(inner, record, lambda trial: [told(search, place, trial) for place in range(len(trial.values))])


def told(search: Search, place: int, trial: Trial) -> dict[str, Any]:
    """Return a rung of a trial of the record as a result for a scheduler."""
    values = trial.values[sorted(trial.values)[place]]
    return {RUNG: rung_time(search, place), VALUE: values[search.objectives[0]]}


def rung_time(search: Search, place: int) -> int:
    """Return the time at a rung, by which a scheduler of Ray's judges: for asha a power of its factor."""
    return int(search.reduction**place) if search.scheduler == "asha" else place + 1
