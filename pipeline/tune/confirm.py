"""Is the best of a search better than the run's own setting, or luck? Both are trained anew, with seeds of their own.

The best of many noisy values is flattered by the choice. So the search's value decides nothing here: each setting is
trained with k seeds that no trial had, and their means are compared by Welch's t test (Welch 1947).
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from pipeline.config import read_run
from pipeline.evaluate.interval import Interval, over_trainings
from pipeline.evaluate.student import chance
from pipeline.tune.driver import search_on_ray
from pipeline.tune.objective import Objective
from pipeline.tune.record import Record
from pipeline.tune.results import best_trials
from pipeline.tune.trial import Task

OWN, BEST = "the run's own", "the best"
STOPPED = "stopped at a checkpoint; the same command goes on from it"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first objective of both settings, over seeds.

    Attributes:
        shown: the objective's name with its protocol.
        better: which way.
        seeds: with which both were trained.
        own: values of the run's own setting, by seed in order.
        best: of the best trial's.
        trial: its number.
    """

    shown: str
    better: str
    seeds: tuple[int, ...]
    own: tuple[float, ...]
    best: tuple[float, ...]
    trial: int

    @property
    def gain(self) -> float:
        """By how much the best setting's mean is better; negative: worse."""
        return (fmean(self.own) - fmean(self.best)) * (1 if self.better == "lower" else -1)

    @property
    def luck(self) -> float:
        """A gain that chance exceeds in one of 20 cases, either way."""
        own, best = (over_trainings(values) for values in (self.own, self.best))
        return chance((own.error, own.degrees), (best.error, best.degrees))

    @property
    def verdict(self) -> str:
        """Say whether the best setting is better, in a sentence."""
        if abs(self.gain) <= self.luck:
            return f"not told apart: a gain of {self.gain:.4g}, and chance alone gives up to {self.luck:.4g}"
        word = "better" if self.gain > 0 else "worse"
        return f"{word} by {abs(self.gain):.4g} ± {self.luck:.4g} (95%, {len(self.seeds)} seeds each)"

    @property
    def rows(self) -> list[tuple[str, float, Interval]]:
        """Each setting with its mean and interval."""
        named = ((OWN, self.own), (f"{BEST} (trial {self.trial})", self.best))
        return [(name, fmean(values), over_trainings(values)) for name, values in named]

    def as_dict(self) -> dict[str, Any]:
        """Return it as best.yaml has it."""
        settings = {name: {"mean": mean, "low": i.low, "high": i.high} for name, mean, i in self.rows}
        return {"objective": self.shown, "seeds": list(self.seeds), "settings": settings, "verdict": self.verdict}


def confirm(task: Task, record: Record) -> Comparison | None:
    """Train the run's own setting and the best one with fresh seeds and compare them.

    Args:
        task: of the search, whose ``confirm`` says with how many seeds.
        record: of the search, which has ended.

    Returns:
        The comparison; None if no trial is finished, or a seed has no value.

    Raises:
        SystemExit: it was stopped by a signal.
    """
    best = best_trials(list(record.trials.values()), task.objectives)
    if not best:
        return None
    seeds = fresh_seeds(task)
    found = []
    for name, values in ((OWN, {}), (BEST, best[0].params)):
        logger.info("%s: %s setting anew, with the seeds %s", task.name, name, ", ".join(map(str, seeds)))
        found.append(_trained(task, values, seeds))
        if found[-1] is None:
            return None
    own, tuned = found
    assert own is not None and tuned is not None
    first: Objective = task.objectives[0]
    shown = first.shown(task.search)
    return Comparison(shown=shown, better=first.better, seeds=seeds, own=own, best=tuned, trial=best[0].number)


def fresh_seeds(task: Task) -> tuple[int, ...]:
    """Return seeds that neither the run nor a trial has."""
    used = list(read_run(task.params, task.name)[0].all_seeds)
    domain = task.search.domains.get("seed")
    used += [int(value) for value in domain.values] if domain else []
    return tuple(max(used) + 1 + k for k in range(task.search.confirm))


def _trained(task: Task, values: Mapping[str, Any], seeds: Sequence[int]) -> tuple[float, ...] | None:
    """Return the first objective of a setting with each seed, by a search over seeds alone; None if one has none."""
    objectives = task.objectives[:1]
    search = replace(
        task.search,
        space={"seed": {"choice": list(seeds)}},
        objective=objectives[0].name,
        searcher="grid",
        scheduler="none",
        rungs=(),
        trials=len(seeds),
        images=None,
        seconds=None,
        gpu_hours=None,
    )
    of = hashlib.sha256(json.dumps([values, list(seeds)], sort_keys=True).encode()).hexdigest()[:16]
    tuned = {name: value for name, value in values.items() if name != "seed"}
    again = replace(
        task, params=task.with_values(tuned), search=search, objectives=objectives, folder=task.folder / f"anew-{of}"
    )
    with Record.open(again.folder, task.name) as record:
        if not search_on_ray(again, record):
            raise SystemExit(STOPPED)
        trials = list(record.trials.values())
    if len(trials) < len(seeds) or any(trial.state != "finished" for trial in trials):
        logger.warning("%s: not all seeds came to their end; nothing is compared", task.name)
        return None
    return tuple(trial.last[objectives[0].name] for trial in trials)
