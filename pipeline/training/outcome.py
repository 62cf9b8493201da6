"""Which state of a training is its result: where the training ends, and which state it keeps.

Both are read from the history, so they are the same after an interruption, and another ``keep`` or ``stop_on`` of a
finished training asks at most for a checkpoint that was not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.config import LAST
from pipeline.core.state import State
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.training.job import Job, Row
from pipeline.training.watching import best_look, look, stopped_by
from pipeline.training.window import crosses
from pipeline.watch.alarms import Alarm


@dataclass(frozen=True)
class Outcome:
    """The result of a finished training.

    Attributes:
        end: images seen where it ended.
        kept: images seen at the state whose weights are the result.
        stopped: the warning that ended it before its budget was spent.
    """

    end: int
    kept: int
    stopped: Alarm | None = None


def outcome_of(job: Job) -> Outcome | None:
    """Return the result of a training as far as its checkpoints tell, or None if it has to go on.

    Args:
        job: the run.

    Returns:
        Its outcome, whether or not the checkpoints that it names are at hand.
    """
    newest = job.storage.newest(job.finished_at + 1)
    if newest is None:
        return None
    content = job.checkpoints.peek(newest)
    history: list[Row] = content["history"]
    cut = newest < job.finished_at and content["last"]  # a smaller budget ended here, in the midst of a log window
    if cut and not crosses(cut["begin"], newest, job.run.watch_every or job.finished_at):
        history = history[:-1]  # whose look a run of this budget does not have
    stopped = stopped_by(history, job)
    if stopped is None and newest < job.finished_at:
        return None
    end = job.finished_at if stopped is None else stopped["said"]
    kept = end
    if job.run.keep != LAST:
        if end == newest and "watched" not in history[-1]:
            history = with_last_look(job, open_dataset(Path(job.data), job.elsewhere), end, history)
        kept = best_look([row for row in history if row["seen"] <= end], job.run.keep) or end
    return Outcome(end, kept, stopped if end < job.finished_at else None)


def next_goal(job: Job) -> int | None:
    """Return images seen at the checkpoint that is still to be made, or None if the result is at hand.

    Args:
        job: the run.

    Returns:
        The end of the budget first; then where the training stopped or was best, if that checkpoint was not kept.
    """
    outcome = outcome_of(job)
    if outcome is None:
        return job.finished_at
    places = dict.fromkeys((outcome.end, outcome.kept))
    return next((seen for seen in places if not _is_at_hand(job, seen)), None)


def until(job: Job, goal: int) -> Job:
    """Return the job of training to a goal, which lies in the budget."""
    return replace(job, until=None if goal == job.finished_at else goal)


def with_last_look(job: Job, dataset: Dataset, seen: int, history: Sequence[Row]) -> list[Row]:
    """Return the history with a look at its end, which the checkpoint of a larger budget may lack.

    Args:
        job: the run.
        dataset: its images.
        seen: at the checkpoint.
        history: of the checkpoint.

    Returns:
        A history that shares all rows but the last.
    """
    content = job.checkpoints.load(seen, torch.device("cpu"))
    state = state_at(job, dataset, content["state"])
    watched = look(job, state, dataset, torch.device("cpu"), processes=content["worlds"][-1][1])
    last: Row = {**history[-1], "watched": watched}
    return [*history[:-1], last]


def state_at(job: Job, dataset: Dataset, saved: dict[str, object]) -> State:
    """Return the state that a checkpoint holds, on the CPU."""
    state = State.fresh(job.method, dataset.spec, job.run.seed, torch.device("cpu"), freeze=job.run.freeze)
    state.load_state_dict(saved)
    return state


def _is_at_hand(job: Job, seen: int) -> bool:
    return seen in job.storage.existing() and job.storage.fetch_checkpoint(seen)
