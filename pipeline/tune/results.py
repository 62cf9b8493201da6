"""What a search has found: its best trials, one line for each that ended, and the files of out/tune/<run>."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from pipeline.files import atomic_file, atomic_folder
from pipeline.inference.weights import save_weights
from pipeline.storage.store import training_folder
from pipeline.tracking.searches import SentPicture, SentSearch, SentTrial, TrialPoint
from pipeline.training.outcome import state_at
from pipeline.training.prepare import prepared
from pipeline.tune.objective import Objective
from pipeline.tune.population import member_folder, member_of
from pipeline.tune.record import Record, Trial
from pipeline.tune.trial import Task, picture_at

logger = logging.getLogger(__name__)


def best_trials(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the finished trials that no other one beats in every objective, the best by the first objective first.

    Args:
        trials: of the record.
        objectives: of the search.

    Returns:
        One trial for one objective (the first of equal ones); the Pareto front for several; none if none is finished.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    scores = {trial.number: costs(trial, objectives) for trial in finished}
    front = [
        trial
        for trial in finished
        if not any(_dominates(scores[other.number], scores[trial.number]) for other in finished)
    ]
    ranked = sorted(front, key=lambda trial: (*scores[trial.number], trial.number))
    return ranked[:1] if len(objectives) == 1 else ranked


def costs(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return a trial's values, less of each being better."""
    return tuple(trial.last[objective.name] * (1 if objective.better == "lower" else -1) for objective in objectives)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


class Progress:
    """Says of each trial that has ended what came of it, what is best so far, and how much of the budget is left."""

    def __init__(self, task: Task, record: Record, concurrent: int) -> None:
        self.task, self.record = task, record
        shown = ", ".join(objective.shown(task.search) for objective in task.objectives)
        known = f", going on after {len(record.trials)}" if record.trials else ""
        logger.info("%s: searching by %s, %d trial(s) at a time%s", task.name, shown, concurrent, known)

    def tell(self, trial: Trial) -> None:
        """Log one line."""
        best = best_trials(list(self.record.trials.values()), self.task.objectives)
        values = " ".join(f"{value:.5g}" for value in trial.last.values()) or "no value"
        said = trial.state if trial.state == "finished" else f"{trial.state} ({trial.reason})"
        found = (
            f"; best {' '.join(f'{v:.5g}' for v in best[0].last.values())} of trial {best[0].number}" if best else ""
        )
        logger.info(
            "trial %d: %s %s, %s%s%s", trial.number, values, said, shown_params(trial.params), found, self._left()
        )

    def _left(self) -> str:
        search, record = self.task.search, self.record
        ended = sum(trial.state is not None for trial in record.trials.values())
        left = [] if search.trials is None else [f"{max(search.trials - ended, 0)} trials"]
        left += [] if search.images is None else [f"{max(search.images - record.images, 0):,} images"]
        left += [] if search.seconds is None else [f"{max(search.seconds - record.seconds, 0):.0f} s"]
        return f"; left: {', '.join(left)}" if left else ""


def shown_params(params: Mapping[str, Any]) -> str:
    """Return params as a person reads them in a line."""
    return ", ".join(f"{name} {value}" for name, value in params.items())


def as_sent(
    task: Task, record: Record, files: Sequence[Path] = (), status: Literal["RUNNING", "FINISHED"] = "FINISHED"
) -> SentSearch:
    """Return a search as MLflow shows it.

    Args:
        task: says what was searched.
        record: of the search.
        files: that belong to it.
        status: whether it goes on.

    Returns:
        The search with all its trials.
    """
    trials, search = list(record.trials.values()), task.search
    best = {trial.number for trial in best_trials(trials, task.objectives)}
    shown = [objective.shown(search) for objective in task.objectives]
    return SentSearch(
        run=task.name,
        key=task.folder.name,
        settings={
            "searched": task.name,
            "searcher": search.searcher,
            "scheduler": search.scheduler,
            "seed": search.seed,
            "objective": ", ".join(shown),
        },
        trials=[_sent_trial(task, trial, trial.number in best) for trial in trials],
        files=files,
        status=status,
        objective=shown[0],
        ascending=task.objectives[0].better == "lower",
    )


def _sent_trial(task: Task, trial: Trial, best: bool) -> SentTrial:
    shown = {objective.name: objective.shown(task.search) for objective in task.objectives}
    points = [
        TrialPoint(
            images=images,
            time=trial.times[images],
            values={shown[name]: value for name, value in trial.values[images].items()},
        )
        for images in sorted(trial.values)
    ]
    return SentTrial(
        number=trial.number,
        key=trial.key,
        # Params in MLflow cannot change: a member's of a population are known once it has ended.
        params=trial.params if trial.state or task.search.scheduler != "pbt" else {},
        points=points,
        state=trial.state,
        reason=trial.reason,
        begun=trial.begun,
        ended=trial.ended,
        best=best,
        pictures=[
            SentPicture(images=images, time=trial.times[images], file=str(picture))
            for images in sorted(trial.values)
            if (picture := _picture(task, trial, images)) is not None
        ],
    )


def _picture(task: Task, trial: Trial, images: int) -> Path | None:
    """Return the picture of a trial's samples at a rung; None where none was made."""
    population = task.search.scheduler == "pbt"
    for key in trial.keys:
        if population:
            store = Path(member_folder(task, trial.number, key))
        else:
            store = training_folder(task.scratch, task.name, key)
        if (found := picture_at(store, images)).exists():
            return found
    return None


def write_best(path: Path, task: Task, record: Record, compared: Mapping[str, Any] | None = None) -> None:
    """Write best.yaml: the best trials with params and values, and how they were found.

    Args:
        path: of the file.
        task: says what was searched.
        record: of the search.
        compared: with the run's own setting, where that was done.
    """
    best = best_trials(list(record.trials.values()), task.objectives)
    trials = [
        {
            "trial": trial.number,
            "params": dict(trial.params),
            "values": {objective.shown(task.search): trial.last[objective.name] for objective in task.objectives},
            "images": trial.images,
            "key": trial.key,
            **({"schedule": way_of(record, trial)} if trial.handovers else {}),
        }
        for trial in best
    ]
    content: dict[str, Any] = {
        "run": task.name,
        "searcher": task.search.searcher,
        "scheduler": task.search.scheduler,
        "trials": len(record.trials),
        "best": trials,
    }
    content |= {"trained_anew": compared} if compared else {}
    with atomic_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False))


def way_of(record: Record, trial: Trial) -> list[dict[str, Any]]:
    """Return with which params a trial's weights were trained from where on, and as whose, from the beginning.

    Args:
        record: of the search.
        trial: one of it; a population's member has the way of each donor behind it, up to where it took over.

    Returns:
        Entries with images, trial and params, in ascending order of images.
    """
    found: list[dict[str, Any]] = []
    until = math.inf
    while True:
        taken = [handed for handed in trial.handovers if handed.images < until]
        params, begin = (taken[-1].after, taken[-1].images) if taken else (trial.first_params, 0)
        found.append({"images": begin, "trial": trial.number, "params": dict(params)})
        if not taken:
            return found[::-1]
        trial, until = record.trials[taken[-1].donor], begin


def write_weights(folder: Path, task: Task, record: Record) -> None:
    """Write the weights of the best trials, trial-<number>.safetensors, as far as their last checkpoints are at hand.

    Args:
        folder: where to; it appears whole.
        task: says what was searched.
        record: of the search.
    """
    with atomic_folder(folder) as temporary:
        for trial in best_trials(list(record.trials.values()), task.objectives):
            with prepared(task.name, task.with_values(trial.params), out=task.out, scratch=task.scratch) as ready:
                job = ready.job
                if task.search.scheduler == "pbt":
                    job = member_of(task, trial).job(job, task)
                if trial.images not in job.storage.existing() or not job.storage.fetch_checkpoint(trial.images):
                    continue
                content = job.checkpoints.load(trial.images, torch.device("cpu"))
                state = state_at(job, ready.dataset, content["state"])
                save_weights(
                    temporary / f"trial-{trial.number}.safetensors",
                    name=job.run.method,
                    params=asdict(job.method),
                    spec=ready.dataset.spec,
                    seen=state.seen,
                    nets=state.nets,
                    ema=state.ema,
                )


def write_trials(path: Path, task: Task, record: Record) -> None:
    """Write trials.csv: one line per trial, in the order of their beginning.

    Args:
        path: of the file.
        task: says what was searched.
        record: of the search.
    """
    params = list(task.search.domains)
    shown = {objective.name: objective.shown(task.search) for objective in task.objectives}
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "images", "seconds", *shown.values(), *params, "key", "reason"])
        for trial in record.trials.values():
            values = [trial.last.get(name, "") for name in shown]
            about = [trial.number, trial.state or "unfinished", trial.images, f"{trial.seconds:.2f}"]
            own = [trial.params.get(name, "") for name in params]
            writer.writerow([*about, *values, *own, trial.key, trial.reason])
