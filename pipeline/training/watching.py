"""Looks at a training, as its rows keep them: the measures, and the warnings that come of them."""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from pipeline.config import LAST, Run
from pipeline.core.state import State
from pipeline.data.dataset import Dataset, domains
from pipeline.training.job import Job, Row
from pipeline.training.memory import needed_by
from pipeline.watch import measures
from pipeline.watch.alarms import Alarm, all_alarms, new_alarms
from pipeline.watch.look import fixed_images, watch
from pipeline.watch.warning import Past, Point


def look(job: Job, state: State, dataset: Dataset, device: torch.device, *, processes: int) -> dict[str, float]:
    """Look at a state with the averaged nets; it stays as it is. Not collective.

    Args:
        job: the run.
        state: of its training.
        dataset: the images.
        device: where the state is.
        processes: that train together; no more images are taken at once than each of them trains on.

    Returns:
        What each measure of the method says, by name.
    """
    at_a_time = max(1, job.run.batch_size // processes)
    with needed_by("look"):
        batches = fixed_images(*domains(dataset, job.run.domains, job.method.views), device, at_a_time=at_a_time)
        return watch(job.method, state.averaged(), batches)


def past_of(history: Sequence[Row]) -> Past:
    """Return the looks and the log windows of a history."""
    looks = [Point(row["seen"], row["watched"]) for row in history if "watched" in row]
    return Past(looks, [Point(row["seen"], row["values"]) for row in history])


def alarms_of(history: Sequence[Row], job: Job) -> list[Alarm]:
    """Return every warning of a history, in order."""
    return all_alarms(past_of(history), job.method, _params(job))


def alarms_at_last(history: Sequence[Row], job: Job) -> list[Alarm]:
    """Return the warnings that the look of a history's last row gives."""
    return new_alarms(past_of(history), job.method, _params(job))


def announce(history: Sequence[Row], job: Job) -> None:
    """Write into the rows, in place, the warnings that their looks gave."""
    alarms = alarms_of(history, job)
    for row in history:
        if "watched" in row:
            row["warnings"] = [alarm for alarm in alarms if alarm["said"] == row["seen"]]


def is_best(history: Sequence[Row], run: Run) -> bool:
    """Return whether the look of the last row is the best so far, by the measure that the run keeps the best of."""
    return run.keep != LAST and best_look(history, run.keep) == history[-1]["seen"]


def best_look(history: Sequence[Row], keep: str) -> int | None:
    """Return images seen at the look where a measure was best, the first of equal ones; None if none has it."""
    sign = -1.0 if measures.load(keep).better == "higher" else 1.0
    values = [(sign * row["watched"][keep], row["seen"]) for row in history if keep in row.get("watched", {})]
    return min(values)[1] if values else None


def stopped_by(history: Sequence[Row], job: Job) -> Alarm | None:
    """Return the first warning of a history at which the run wants to stop."""
    if not job.run.stop_on:
        return None
    return next((alarm for alarm in alarms_of(history, job) if alarm["kind"] in job.run.stop_on), None)


def _params(job: Job) -> dict[str, object]:
    return asdict(job.run) | asdict(job.method)
