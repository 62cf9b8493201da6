"""Between Ray Tune and a search: Ray asks for trials and says what came of them; the record and the chooser keep it."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from pipeline.config import Search
from pipeline.evaluate.metric import Better
from pipeline.tune.chooser import Chooser
from pipeline.tune.record import Record, Trial
from pipeline.tune.space import grid_size
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
        max_failures: deaths of a trial's process after which it goes on.
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
        max_failures: int,
    ) -> None:
        super().__init__()
        self.search, self.record, self.chooser, self.concurrent = search, record, chooser, concurrent
        self.key_of, self.ended, self.may_begin = key_of, ended, may_begin
        self.max_failures, self.deaths = max_failures, Counter[int]()
        self.running: dict[str, int] = {}
        self.waiting = [trial.number for trial in record.trials.values() if trial.state is None]

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Take what Ray says of the objective, which this knows."""
        return True

    @property
    def at_most(self) -> int:
        """How many trials may still begin, as far as is known."""
        if self.search.trials is None and self.search.searcher != "grid":
            return self.concurrent
        known = len(self.record.trials)
        wanted = grid_size(self.search.domains, self.concurrent + known) if self.search.searcher == "grid" else 0
        left = (self.search.trials if self.search.trials is not None else wanted) - known
        return len(self.waiting) + max(min(left, wanted - known) if wanted else left, 0)

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None while there is no room; FINISHED once no more will begin."""
        if len(self.running) >= self.concurrent:
            return None
        trial = self._next() if self.may_begin() else None
        if trial is None:  # FINISHED is for good, and a trial that runs may have to begin again
            return None if self.running else Searcher.FINISHED
        self.running[trial_id] = trial.number
        return {"trial": trial.number, "values": trial.params, "rungs": len(trial.values)}

    def _next(self) -> Trial | None:
        if self.waiting:
            return self.record.trials[self.waiting.pop(0)]
        if self.search.trials is not None and len(self.record.trials) >= self.search.trials:
            return None
        values = self.chooser.next()
        return None if values is None else self.record.begin(values, self.key_of(values))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Write down a value."""
        report: Report = result["report"]
        if report.values:
            self.record.value(self.running[trial_id], report.images, report.values, report.seconds)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Write down how a trial ended; one that paused goes on with the next call."""
        number = self.running.pop(trial_id)
        if error or result is None:
            self._again(number)
            return
        report: Report = result["report"]
        if report.values:
            self.record.value(number, report.images, report.values, report.seconds)
        if report.paused:
            return
        judged = "worse than others at this rung, by " + self.search.scheduler
        self._end(number, report if report.state else Report(state="pruned", reason=judged))

    def _again(self, number: int) -> None:
        """Let a trial whose process died go on from its last checkpoint, but not for ever.

        Ray's own FailureConfig does not do for reused actors: one that dies before a trial's first result takes the
        trial with it, however many failures are allowed.
        """
        self.deaths[number] += 1
        if self.deaths[number] > self.max_failures:
            reason = f"its process died {self.deaths[number]} times (cluster.max_failures)"
            self._end(number, Report(state="failed", reason=reason))
            return
        logger.warning("trial %d: its process died; it goes on from its last checkpoint", number)
        self.waiting.append(number)

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
        make: returns one of Ray's.
        record: of the search; its trials that have ended are told at once, the others when they go on.
        told: turns a trial's rung into a result as Ray has it.
    """

    def __init__(self, make: Callable[[], Any], record: Record, told: Callable[[Trial], list[dict[str, Any]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.make, self.record, self.told = make, record, told
        self.live: dict[int, Any] = {}
        self.inner = self._fed()

    def _fed(self) -> Any:
        """Return a scheduler that knows all trials that have ended, and those that run."""
        inner = self.make()
        for trial in self.record.trials.values():
            if trial.state is not None:
                self._remember(inner, _Past(f"past-{trial.number}"), trial)
        for number, of in self.live.items():
            self._remember(inner, of, self.record.trials[number])
        return inner

    def _remember(self, inner: Any, of: Any, trial: Trial) -> None:
        inner.on_trial_add(None, of)
        for result in self.told(trial):
            inner.on_trial_result(None, of, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept what the search says; the inner one was made with it."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial, and what is known of it."""
        number = trial.config["trial"]
        self.live[number] = trial
        self._remember(self.inner, trial, self.record.trials[number])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Forget what came of it: when it goes on, it is another trial to Ray, and would count twice."""
        self.live.pop(trial.config["trial"], None)
        self.inner = self._fed()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial goes on."""
        return str(self.inner.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on."""
        self.live.pop(trial.config["trial"], None)
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

    def make() -> Any:
        if search.scheduler == "asha":
            last, factor = search.reduction ** (rungs - 1), search.reduction
            return AsyncHyperBandScheduler(**plan, grace_period=1, max_t=last * factor - 1, reduction_factor=factor)
        if search.scheduler == "median":
            return MedianStoppingRule(**plan, grace_period=1, min_time_slice=math.inf)  # type: ignore[arg-type]
        return FIFOScheduler()  # type: ignore[no-untyped-call]

    return Scheduler(make, record, lambda trial: [told(search, place, trial) for place in range(len(trial.values))])


def told(search: Search, place: int, trial: Trial) -> dict[str, Any]:
    """Return a rung of a trial of the record as a result for a scheduler."""
    values = trial.values[sorted(trial.values)[place]]
    return {RUNG: rung_time(search, place), VALUE: values[search.objectives[0]]}


def rung_time(search: Search, place: int) -> int:
    """Return the time at a rung, by which a scheduler of Ray's judges: for asha a power of its factor."""
    return int(search.reduction**place) if search.scheduler == "asha" else place + 1
