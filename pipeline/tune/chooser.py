"""Which params the next trial has: Optuna's samplers, or a grid, fed from the record of the search.

A search that goes on feeds a new chooser with every event of its record, in order: it asks again for each trial that
had begun and tells what had ended, so that the sampler is where it was, its random numbers included. If it gives
another trial than the record has (another version of Optuna), the trials of the record are put in its place.

Optuna: Akiba et al., "Optuna: a next-generation hyperparameter optimization framework", KDD 2019, arXiv:1907.10902;
TPE: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.config import Domain, Search
from pipeline.evaluate.metric import Better
from pipeline.tune.record import Event, Record, Trial
from pipeline.tune.space import Values, categories, draw, grid

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Chooser:
    """Gives the params of one trial after another, and learns how they ended."""

    def __init__(self, search: Search, better: Sequence[Better]) -> None:
        self.search, self.better, self.domains = search, better, search.domains
        self.given = 0
        self.study: Study | None = None
        if search.searcher != "grid":
            self.study = empty_study(better, sampler_of(search, search.seed))

    def next(self) -> Values | None:
        """Return the params of the next trial; None if there are no more."""
        self.given += 1
        if self.study is None:
            return next(islice(grid(self.domains), self.given - 1, None), None)
        with quiet():
            return draw(self.domains, self.study.ask())

    def tell(self, trial: Trial) -> None:
        """Tell how a trial ended: with its values, pruned, or failed, which teaches nothing of its params.

        Args:
            trial: ended.
        """
        if self.study is None:
            return
        state = state_of(trial, self.search.objectives)
        with quiet():
            if state == TrialState.PRUNED:
                running = optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[trial.number]._trial_id)
                for images, scores in trial.values.items():
                    running.report(scores[self.search.objectives[0]], images)
            values = [trial.last[name] for name in self.search.objectives] if state == TrialState.COMPLETE else None
            self.study.tell(trial.number, values, state)

    def replay(self, record: Record) -> None:
        """Learn all that a record says, as if it had happened here.

        Args:
            record: of this very search; the chooser has given nothing yet.
        """
        for event in record.events:
            if event["event"] == "begun" and self.next() != _as_drawn(event):
                logger.warning(
                    "%s: this version of Optuna draws other trials; those of the record are put in their place",
                    record.folder,
                )
                self._take_over(record.trials.values())
                return
            if event["event"] == "ended":
                self.tell(record.trials[event["trial"]])

    def _take_over(self, trials: Iterable[Trial]) -> None:
        known = list(trials)
        self.given = len(known)
        if self.study is None:
            return
        self.study = empty_study(self.better, sampler_of(self.search, self.search.seed + len(known)))
        for trial in known:
            self.study.add_trial(frozen(trial, self.domains, self.search.objectives))


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Optuna does not warn that a part of it is new, or that it samples some params alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def empty_study(better: Sequence[Better], sampler: BaseSampler | None = None) -> Study:
    """Return a study in memory.

    Args:
        better: of each objective, which way.
        sampler: that draws; None: it is only looked at.

    Returns:
        The study.
    """
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    directions = [minimize if way == "lower" else maximize for way in better]
    return optuna.create_study(directions=directions, sampler=sampler or RandomSampler(seed=0))


def sampler_of(search: Search, seed: int) -> BaseSampler:
    """Return Optuna's sampler for a search.

    Args:
        search: which, and after how many trials at random it begins.
        seed: of its random numbers.

    Returns:
        The sampler.
    """
    with quiet():
        if search.searcher == "random":
            return RandomSampler(seed=seed)
        if search.searcher == "gp":
            return GPSampler(seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False)
        conditional = any(domain.when for domain in search.domains.values())
        return TPESampler(
            seed=seed, n_startup_trials=search.startup, group=conditional, warn_independent_sampling=False
        )


def state_of(trial: Trial, objectives: Sequence[str]) -> TrialState:
    """Return what Optuna calls the state of a trial: one without a value, or that diverged, has failed."""
    if trial.state is None:
        return TrialState.RUNNING
    if trial.state == "finished":
        return TrialState.COMPLETE
    ended_early = trial.state in ("pruned", "stopped") and len(objectives) == 1
    return TrialState.PRUNED if ended_early and trial.values else TrialState.FAIL


def frozen(trial: Trial, domains: dict[str, Domain], objectives: Sequence[str]) -> FrozenTrial:
    """Return a trial of the record as one of Optuna's.

    Args:
        trial: of the record.
        domains: of the search.
        objectives: of the search.

    Returns:
        It, with the params that it has.
    """
    state = state_of(trial, objectives)
    values = [trial.last[name] for name in objectives] if state == TrialState.COMPLETE else None
    steps = {images: scores[objectives[0]] for images, scores in trial.values.items()}
    drawn = {
        name: categories(domains[name])[_place(domains[name], value)]
        for name, value in trial.params.items()
        if domains[name].kind == "choice"
    }
    return create_trial(
        state=state,
        values=values,
        params={**trial.params, **drawn},
        distributions={name: distribution(domains[name]) for name in trial.params},
        intermediate_values=steps if len(objectives) == 1 else None,
    )


def distribution(domain: Domain) -> BaseDistribution:
    """Return a param's values as Optuna has them."""
    if domain.kind == "choice":
        return CategoricalDistribution(categories(domain))
    low, high = domain.values
    if domain.is_whole:
        return IntDistribution(low, high, log=domain.is_logarithmic, step=int(domain.step or 1))
    return FloatDistribution(low, high, log=domain.is_logarithmic, step=domain.step)


def _place(domain: Domain, value: Any) -> int:
    known = [list(choice) if isinstance(choice, tuple) else choice for choice in domain.values]
    return known.index(list(value) if isinstance(value, tuple) else value)


def _as_drawn(event: Event) -> Values:
    """Return the params of an event with tuples for lists, which JSON does not tell apart."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in event["params"].items()}
