"""A search's page: the history of the best, slices, parallel coordinates, what each param matters, the trials.

Importance: Hutter, Hoos, Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014 (the
functional analysis of variance of a random forest), as Optuna computes it, of the finished trials.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pipeline.config import Domain
from pipeline.files import atomic_file
from pipeline.render.template import environment
from pipeline.tune.adopt import as_yaml
from pipeline.tune.chooser import empty_study, frozen, quiet
from pipeline.tune.confirm import Comparison
from pipeline.tune.plots import Axis, Mark, bars, parallel, scatter
from pipeline.tune.record import Record, Trial
from pipeline.tune.results import best_trials, costs, shown_params, way_of
from pipeline.tune.trial import Task

FEWEST = 4  # finished trials of which importance says anything
STYLE = Path(__file__).parents[1] / "render" / "report.css"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with what it shows; wide: over the whole page."""

    title: str
    caption: str
    svg: str
    wide: bool = False


def write_report(path: Path, task: Task, record: Record, compared: Comparison | None = None) -> None:
    """Write a search's page, which loads nothing.

    Args:
        path: of the file.
        task: says what was searched.
        record: of the search.
        compared: the best with the run's own setting, where that was done.
    """
    pages = environment(Path(__file__).parent)
    content = pages.get_template("report.html").render(
        _content(task, record), compared=compared, style=STYLE.read_text()
    )
    with atomic_file(path) as temporary:
        temporary.write_text(content)


def _content(task: Task, record: Record) -> dict[str, Any]:
    trials, search = list(record.trials.values()), task.search
    best = best_trials(trials, task.objectives)
    states = Counter(trial.state or "unfinished" for trial in trials)
    view = _View(task, trials, {trial.number for trial in best})
    return {
        "run": task.name,
        "count": len(trials),
        "searcher": search.searcher,
        "scheduler": search.scheduler,
        "states": ", ".join(f"{count} {state}" for state, count in states.most_common()),
        "images": record.images,
        "seconds": f"{sum(trial.seconds for trial in trials):,.0f} s",
        "objectives": view.shown,
        "params": list(search.domains),
        "best": [{"number": t.number, "shown": view.values(t), "params": shown_params(t.params)} for t in best],
        "handovers": sum(len(trial.handovers) for trial in trials),
        "plots": [*view.plots(), *_ways(task, record)],
        "rows": [view.row(trial) for trial in trials],
    }


def _ways(task: Task, record: Record) -> list[Plot]:
    """Return a plot per param of a population: what each member had from where on, and the best one's whole way."""
    trials = list(record.trials.values())
    if not any(trial.handovers for trial in trials):
        return []
    best = best_trials(trials, task.objectives)
    x = Axis.of("images", [0, *(trial.images for trial in trials)])
    found = []
    for name, domain in task.search.domains.items():
        y = _axis(name, domain)
        lines, marks = [], []
        for trial in trials:
            steps = [(0, trial.first_params), *((handed.images, handed.after) for handed in trial.handovers)]
            corners = _stairs([(at, _shown(domain, params[name])) for at, params in steps], trial.images)
            lines.append(("pruned", corners))
            marks += [
                Mark(h.images, _shown(domain, h.after[name]), "finished", f"trial {h.trial} takes over from {h.donor}")
                for h in trial.handovers
            ]
        for trial in best:
            steps = [(step["images"], _shown(domain, step["params"][name])) for step in way_of(record, trial)]
            lines.append(("best", _stairs(steps, trial.images)))
        caption = f"{name} on the way of each member; a dot is a hand-over, the bold line the way of the best weights."
        found.append(Plot(title=f"{name} on the way", caption=caption, svg=scatter(caption, x, y, marks, lines)))
    return found


def _stairs(steps: Sequence[tuple[int, Any]], end: int) -> list[tuple[int, Any]]:
    """Return the corners of a line that keeps each value until the next one."""
    ends = [*(at for at, _ in steps[1:]), max(end, steps[-1][0])]
    return [point for (at, value), until in zip(steps, ends, strict=True) for point in ((at, value), (until, value))]


def _axis(name: str, domain: Domain) -> Axis:
    if domain.kind == "choice":
        return Axis(label=name, choices=tuple(as_yaml(value) for value in domain.values))
    return Axis.of(name, domain.values, log=domain.is_logarithmic)


def _shown(domain: Domain, value: Any) -> Any:
    """Return a value as its axis has it."""
    return as_yaml(value) if domain.kind == "choice" else value


class _View:
    """The trials of a search as plots and rows."""

    def __init__(self, task: Task, trials: Sequence[Trial], best: set[int]) -> None:
        self.task, self.trials, self.best = task, trials, best
        self.domains, self.first = task.search.domains, task.objectives[0]
        self.shown = [objective.shown(task.search) for objective in task.objectives]
        self.scored = [trial for trial in trials if trial.values]
        self.y = Axis.of(self.shown[0], [trial.last[self.first.name] for trial in self.scored])

    def values(self, trial: Trial) -> str:
        """Return a trial's values as text."""
        return ", ".join(
            f"{shown} {trial.last[objective.name]:.5g}"
            for shown, objective in zip(self.shown, self.task.objectives, strict=True)
        )

    def row(self, trial: Trial) -> dict[str, Any]:
        """Return a row of the table."""
        values = [f"{trial.last[o.name]:.5g}" if trial.last else "" for o in self.task.objectives]
        params = [as_yaml(trial.params[name]) if name in trial.params else "" for name in self.domains]
        about: dict[str, Any] = {
            "number": trial.number,
            "state": trial.state or "unfinished",
            "best": trial.number in self.best,
        }
        about |= {"images": trial.images, "seconds": f"{trial.seconds:.1f}", "reason": trial.reason}
        return about | {"cells": [*values, *params]}

    def plots(self) -> list[Plot]:
        """Return all plots of which there is something to show."""
        if not self.scored:
            return []
        found = [self._history(), *self._curves(), *self._front(), self._parallel()]
        slices = [self._slice(name, domain) for name, domain in self.domains.items()]
        return [*found, *slices, *self._importance()]

    def _kind(self, trial: Trial) -> str:
        if trial.number in self.best:
            return "best"
        return {"finished": "finished", None: "unfinished"}.get(trial.state, "pruned")

    def _mark(self, x: Any, trial: Trial) -> Mark:
        said = (
            f"trial {trial.number}, {trial.state or 'unfinished'}: {self.values(trial)}; {shown_params(trial.params)}"
        )
        return Mark(x, trial.last[self.first.name], self._kind(trial), said)

    def _history(self) -> Plot:
        x = Axis.of("trial", [0, max(len(self.trials) - 1, 1)])
        line, best = list[tuple[int, float]](), math.inf
        for trial in self.trials:
            if trial.state == "finished" and costs(trial, self.task.objectives)[0] < best:
                line += [(trial.number, line[-1][1])] if line else []
                best = costs(trial, self.task.objectives)[0]
                line.append((trial.number, trial.last[self.first.name]))
        line += [(len(self.trials) - 1, line[-1][1])] if line else []
        marks = [self._mark(trial.number, trial) for trial in self.scored]
        caption = (
            f"Each trial's last value, and the best so far; {self.first.better} is better. Crosses were ended early."
        )
        svg = scatter("The history of the best", x, self.y, marks, [("best", line)] if line else [])
        return Plot(title="History", caption=caption, svg=svg)

    def _curves(self) -> list[Plot]:
        several = [trial for trial in self.scored if len(trial.values) > 1 or trial.state != "finished"]
        if not several:
            return []
        points = {
            trial.number: [(images, trial.values[images][self.first.name]) for images in sorted(trial.values)]
            for trial in self.scored
        }
        x = Axis.of("images", [images for line in points.values() for images, _ in line])
        y = Axis.of(self.shown[0], [value for line in points.values() for _, value in line])
        lines = [(self._kind(trial), points[trial.number]) for trial in self.scored]
        marks = [self._mark(points[trial.number][-1][0], trial) for trial in self.scored]
        caption = "What each trial was at its rungs. Crosses were ended early."
        return [Plot(title="Learning curves", caption=caption, svg=scatter("Learning curves", x, y, marks, lines))]

    def _front(self) -> list[Plot]:
        if len(self.task.objectives) < 2:
            return []
        second = self.task.objectives[1]
        axis = Axis.of(self.shown[1], [trial.last[second.name] for trial in self.scored])
        marks = [self._mark(trial.last[second.name], trial) for trial in self.scored]
        front = sorted(
            (trial.last[second.name], trial.last[self.first.name]) for trial in self.trials if trial.number in self.best
        )
        svg = scatter("The Pareto front", axis, self.y, marks, [("best", front)])
        caption = "The line joins the trials that no other one beats in every objective."
        return [Plot(title="Pareto front", caption=caption, svg=svg)]

    def _importance(self) -> list[Plot]:
        found = importance(self.task, self.trials)
        if not found:
            return []
        caption = f"The share of {self.shown[0]}'s variance over finished trials that each param explains (fANOVA)."
        svg = bars("Importance of the params", sorted(found.items(), key=lambda item: -item[1]))
        return [Plot(title="Importance", caption=caption, svg=svg)]

    def _parallel(self) -> Plot:
        axes = [*(_axis(name, domain) for name, domain in self.domains.items()), self.y]
        finished = sorted(
            (trial for trial in self.scored if trial.state == "finished"),
            key=lambda trial: costs(trial, self.task.objectives),
        )
        better = {trial.number for trial in finished[: max(1, len(finished) // 4)]}
        rows = []
        for trial in sorted(self.scored, key=lambda trial: trial.number in self.best):
            kind = self._kind(trial)
            kind = "better" if kind == "finished" and trial.number in better else kind
            values = [*(self._place(name, trial) for name in self.domains), trial.last[self.first.name]]
            rows.append((kind, self._mark(0, trial).title, values))
        caption = "One line per trial: the best bold, the best quarter coloured, those ended early dashed."
        svg = parallel("Parallel coordinates", axes, rows)
        return Plot(title="Parallel coordinates", caption=caption, svg=svg, wide=True)

    def _slice(self, name: str, domain: Domain) -> Plot:
        with_it = [trial for trial in self.scored if name in trial.params]
        marks = [self._mark(self._place(name, trial), trial) for trial in with_it]
        last = " that it had last" if self.task.search.scheduler == "pbt" else ""
        caption = f"{self.shown[0]} by the {name}{last}."
        if domain.when:
            wanted = (f"{key} is {' or '.join(map(str, values))}" for key, values in domain.when.items())
            caption += f" It exists only where {' and '.join(wanted)}."
        return Plot(title=name, caption=caption, svg=scatter(caption, _axis(name, domain), self.y, marks))

    def _place(self, name: str, trial: Trial) -> Any:
        return _shown(self.domains[name], trial.params[name]) if name in trial.params else None


def importance(task: Task, trials: Sequence[Trial]) -> dict[str, float]:
    """Return how much of the first objective's variance each param explains; {} where there is too little to say.

    Args:
        task: says what was searched.
        trials: of the record; the finished ones count whose params never changed, and the params that all of them have.

    Returns:
        Shares by param, which add up to 1.
    """
    finished = [trial for trial in trials if trial.state == "finished" and not trial.handovers]
    first = task.objectives[0]
    if len(finished) < FEWEST or len({trial.last[first.name] for trial in finished}) < 2:
        return {}
    study = empty_study([first.better])
    for trial in finished:
        study.add_trial(frozen(trial, task.search.domains, [first.name]))
    with quiet():
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=task.search.seed)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {name: float(share) for name, share in shares.items()}
