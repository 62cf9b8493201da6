"""One trial in one process: trained to its next rung, scored there, and so on to its end.

It is trained by the loop of every run, in the folder of that very training (``training_folder``): what `dvc repro`
would train with these params is the same training, and goes on from where the trial left it. So a trial stops for
scoring only where a log window ends, and leaves no row, picture or look that an uninterrupted training would not have.

Beside the checkpoints, scores-<protocol>.json keeps the values at each rung: a trial whose worker or driver was killed
is scored there no second time.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Params, Search
from pipeline.core.batch import to_uint8
from pipeline.core.world import default_device
from pipeline.errors import UserError
from pipeline.files import atomic_file, locked, write_json
from pipeline.inference.diagnosis import NotFiniteError
from pipeline.inference.weights import Trained
from pipeline.render.grid import grid
from pipeline.training.initial import keep_initial
from pipeline.training.job import DivergedError, Job, Row
from pipeline.training.memory import out_of_memory
from pipeline.training.outcome import outcome_of, state_at
from pipeline.training.prepare import Prepared, prepared
from pipeline.training.trainer import SNAPSHOT_GRID, fixed_batches, sample
from pipeline.tune.objective import Judge, Objective, protocol
from pipeline.tune.record import State
from pipeline.tune.workers import Alone, Together, WorkerLostError


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all trials of a search have in common; sent to every process that runs some.

    Attributes:
        name: the run's.
        params: of the project.
        search: of the run.
        objectives: of the search.
        root: the project's folder.
        out: the folder of the stages' outputs.
        scratch: the folder of trainings.
        folder: of the search's record.
        deadline: seconds since 1970 when trials stop at a checkpoint; None: never.
    """

    name: str
    params: Params
    search: Search
    objectives: tuple[Objective, ...]
    root: Path
    out: Path
    scratch: Path
    folder: Path
    deadline: float | None = None

    @property
    def stop_request(self) -> Path:
        """A file that asks all trials to stop at a checkpoint."""
        return self.folder / "stop"

    def with_values(self, values: Mapping[str, Any]) -> Params:
        """Return the project's params with a trial's in the place of the run's."""
        raw = {
            key: value
            for key, value in self.params.runs[self.name].items()
            if not (key == "seeds" and "seed" in values)
        }
        raw |= {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return replace(self.params, runs={**self.params.runs, self.name: raw})


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the training of a population's member is, which is no run's: its params change on the way.

    Attributes:
        key: of its checkpoints.
        folder: of them.
        begin: images seen at the checkpoint that it took over; 0: it begins by itself.
    """

    key: str
    folder: str
    begin: int = 0

    def job(self, of: Job, task: Task) -> Job:
        """Return a run's training as this member's."""
        url = task.params.cluster.url
        place = url and f"{url}/searches/{task.folder.name}/{Path(self.folder).name}"
        return replace(of, key=self.key, store=self.folder, url=place)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial says after a rung, or when it ends.

    Attributes:
        images: that it was trained on.
        values: of the objectives, where it was scored.
        seconds: of training, scoring included.
        state: how it ended; None: it goes on, if ``paused`` with a later call.
        reason: why, if not because it is finished.
        paused: it was told to stop, or its time is up.
        rung: the place of this rung, from 0.
    """

    images: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    state: State | None = None
    reason: str = ""
    paused: bool = False
    rung: int = 0


def rungs_of(job: Job, search: Search) -> list[int]:
    """Return images seen where a trial is scored, in ascending order: at the end of a log window, whole iterations.

    Args:
        job: of a trial; all trials of one batch size have the same.
        search: says about where.

    Returns:
        The rungs, and last the end.
    """
    end = job.finished_at
    if search.trial_images is not None:
        end = min(end, window_end(job, search.trial_images - 1))
    return sorted({seen for rung in search.rungs if (seen := window_end(job, rung - 1)) < end} | {end})


def window_end(job: Job, seen: int) -> int:
    """Return images seen at the end of the log window that begins at ``seen`` images."""
    step = job.run.batch_size * max(phase.repeats for phase in job.method.phases())
    every = job.run.log_every
    crossed = (seen // every + 1) * every
    return min(-(-crossed // step) * step, job.finished_at)


def picture_at(store: Path, images: int) -> Path:
    """Return where the picture of a trial at a rung is, in the folder of its training."""
    return store / f"samples-{images:012d}.png"


class Trial:
    """A trial that is under way in this process.

    Args:
        task: what all trials have in common.
        values: the params of this one.
        judges: those made in this process, by what they see; a trial adds its own.
        member: where its training is, if it is one of a population.
        workers: the processes that train it; None: this one.
    """

    def __init__(
        self,
        task: Task,
        values: Mapping[str, Any],
        judges: dict[Any, Judge] | None = None,
        member: Member | None = None,
        workers: Alone | Together | None = None,
    ) -> None:
        self.workers = workers or Alone()
        self.task, self.held, self.begun, self.member = task, ExitStack(), time.monotonic(), member
        self.ready: Prepared = self.held.enter_context(
            prepared(task.name, task.with_values(values), out=task.out, scratch=task.scratch)
        )
        self.job = member.job(self.ready.job, task) if member else self.ready.job
        self.rungs = rungs_of(self.job, task.search)
        self.judge = self._judge({} if judges is None else judges)
        self.next = 0

    def close(self) -> None:
        """Release what the trial holds."""
        self.held.close()

    def advance(self) -> Report:
        """Train to the next rung and score there.

        Returns:
            What came of it. Whatever goes wrong with this trial's params is its own end, and no error.

        Raises:
            WorkerLostError: a process that trains it is gone.
        """
        rung = self.next
        try:
            with locked(Path(self.job.store) / "lock", wait=None):
                return replace(self._advance(self.rungs[rung]), rung=rung)
        except WorkerLostError:
            raise
        except (DivergedError, NotFiniteError) as error:
            return self._ended("diverged", str(error))
        except Exception as error:  # a trial that raises does not stop the search
            line = out_of_memory(error) if isinstance(error, RuntimeError | MemoryError) else None
            said = f"not enough memory: {line}" if line else str(error) if isinstance(error, UserError) else repr(error)
            logging.getLogger(__name__).debug("trial failed", exc_info=error)
            return self._ended("failed", said)

    def _advance(self, goal: int) -> Report:
        known = self._scores()
        if str(goal) not in known:
            if report := self._train(goal):
                return report
            known[str(goal)] = self._score(goal)
            write_json(self._kept, known)
        self.next += 1
        values, seconds = known[str(goal)]["values"], known[str(goal)]["seconds"]
        report = Report(images=goal, values=values, seconds=seconds)
        if not all(math.isfinite(value) for value in values.values()):
            lacking = ", ".join(name for name, value in values.items() if not math.isfinite(value))
            return replace(report, state="diverged", reason=f"{lacking}: not a finite number", values={})
        return replace(report, state="finished") if self.next == len(self.rungs) else report

    def _train(self, goal: int) -> Report | None:
        """Train to a rung; return a report if the trial ended or paused before it."""
        job = self.job
        if self.member and self.member.begin and job.storage.newest(goal + 1) is None:
            raise UserError(f"{job.store}: no whole checkpoint is left of what it took over at {self.member.begin:,}.")
        keep_initial(job.initial, self.ready.weights)
        self.ready.key.write(Path(job.store))
        if goal in job.storage.existing() and job.storage.fetch_checkpoint(goal):
            return None
        until = _Until(job, goal, self._asked)
        reach = replace(job, until=None if goal == job.finished_at else self._beyond(goal))
        self.workers.train(reach, until.note, until)
        if job.storage.newest(goal + 1) == goal:
            return None
        if until.asked:
            return Report(images=until.seen, seconds=self._seconds(), paused=True)
        outcome = outcome_of(job)
        reason = outcome.stopped["message"] if outcome and outcome.stopped else f"it ended at {until.seen:,} images"
        return Report(images=until.seen, seconds=self._seconds(), state="stopped", reason=reason)

    def _beyond(self, goal: int) -> int:
        """Return a place after the rung but before checkpoints of later ones, from which this must not go on."""
        later = [seen for seen in self.job.storage.existing() if seen > goal]
        return min([self.job.finished_at, *(seen - 1 for seen in later)])

    def _score(self, goal: int) -> dict[str, Any]:
        job, begin = self.job, time.monotonic()
        content = job.checkpoints.load(goal, torch.device("cpu"))
        state = state_at(job, self.ready.dataset, content["state"])
        state = state if default_device().type == "cpu" else self._on_device(content)
        trained = Trained.of(job.method, state, self.ready.dataset.spec)
        self._draw(goal, trained)
        values = self.judge.score(trained, content["seconds"])
        return {"values": values, "seconds": content["seconds"] + time.monotonic() - begin}

    def _draw(self, goal: int, trained: Trained) -> None:
        """Render the latents of the run's snapshots, beside the checkpoints: a rung is no place for a snapshot."""
        job = self.job
        fixed = fixed_batches(job, self.ready.dataset, trained.device, processes=max(self.task.params.cluster.most, 1))
        with atomic_file(picture_at(Path(job.store), goal)) as temporary:
            images = [to_uint8(sample(job.method, trained.nets, batch)).cpu() for batch in fixed]
            grid(torch.cat(images), columns=SNAPSHOT_GRID).save(temporary)

    def _on_device(self, content: Mapping[str, Any]) -> Any:
        from pipeline.core.state import State as Training

        run, spec = self.job.run, self.ready.dataset.spec
        state = Training.fresh(self.job.method, spec, run.seed, default_device(), freeze=run.freeze)
        state.load_state_dict(content["state"])
        return state

    def _asked(self) -> bool:
        deadline = self.task.deadline
        return self.task.stop_request.exists() or (deadline is not None and time.time() >= deadline)

    def _judge(self, judges: dict[Any, Judge]) -> Judge:
        run, task = self.job.run, self.task
        seen = (run.domains, run.batch_size)
        if seen not in judges:
            judges[seen] = Judge(
                task.search,
                task.objectives,
                self.ready.dataset,
                run.domains,
                task.params.evaluate,
                task.out / "extractors",
                run.batch_size,
                self.job.method.views,
            )
        return judges[seen]

    @property
    def _kept(self) -> Path:
        of = protocol(self.task.search, self.task.objectives, self.task.params.evaluate)
        return Path(self.job.store) / f"scores-{of}.json"

    def _scores(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._kept.read_text()))
        except (OSError, ValueError):
            return {}

    def _seconds(self) -> float:
        newest = self.job.storage.newest(self.job.finished_at + 1)
        return 0.0 if newest is None else float(self.job.checkpoints.peek(newest)["seconds"])

    def _ended(self, state: State, reason: str) -> Report:
        newest = self.job.storage.newest(self.job.finished_at + 1) or 0
        seconds = time.monotonic() - self.begun
        return Report(images=newest, seconds=seconds, state=state, reason=reason, rung=self.next)


class _Until:
    """Lets a training stop at the log window that ends at a rung, or where it is asked to.

    ``train`` asks once per log window, before its row is reported; where the window ends follows from the last row.
    """

    def __init__(self, job: Job, goal: int, asked: Callable[[], bool]) -> None:
        self.job, self.goal, self.wanted = job, goal, asked
        self.seen, self.asked = 0, False

    def note(self, rows: list[Row]) -> None:
        """Take new rows: the last one says how far the training is."""
        if rows:
            self.seen = rows[-1]["seen"]

    def __call__(self) -> bool:
        end = window_end(self.job, self.seen)
        self.asked = end < self.goal and self.wanted()
        return self.asked or end >= self.goal
