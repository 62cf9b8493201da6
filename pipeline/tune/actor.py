"""The class that Ray Tune's actors run: one trial after another in the same process, each step up to a rung.

Imported in Ray's processes and where a search starts, never before: it needs Ray.
"""

import time
import uuid
from pathlib import Path
from typing import Any

from ray import tune

from pipeline.config import Search
from pipeline.tune.ray_search import RUNG, VALUE, rung_time
from pipeline.tune.seat import Seat
from pipeline.tune.trial import Report, Task, Trial
from pipeline.tune.workers import Share

WAIT_SECONDS = 60.0  # for the other actors: a cluster that others use may have no room for all of them now
POLL_SECONDS = 0.05


class Actor(tune.Trainable):
    """Trains trials. Ray calls ``setup`` once, ``reset_config`` for each further trial, and ``step`` for each rung."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], task: Task, share: Share, started: Path, actors: int
    ) -> None:
        """Make the process ready: it imports torch, and takes the trial's CPUs as threads.

        Args:
            config: the trial's: its number, its params, and rungs that are known of it.
            task: what all trials have in common.
            share: of each of a trial's processes.
            started: a folder where each actor leaves a file.
            actors: that start together.
        """
        self.seat = Seat(task, share)
        self.task = task
        self.trial: Trial | None = None
        self.started, self.actors = started, actors
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial in the same process."""
        self.cleanup()
        self.values, self.begin = dict(new_config["values"]), int(new_config["rungs"])
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung; return what Ray Tune is to know of it."""
        self._wait_for_the_others()
        return _told(self._advance(), self.task.search)

    def _wait_for_the_others(self) -> None:
        """Let no trial end before all actors are there.

        Ray gives the actor of a trial that has ended to one whose own actor is about to start, and drops that one: of
        trials that are shorter than the start of an actor only one at a time would ever run.
        """
        if self.actors:
            (self.started / uuid.uuid4().hex).touch()
            end = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < end and len(list(self.started.iterdir())) < self.actors:
                time.sleep(POLL_SECONDS)
            self.actors = 0

    def _advance(self) -> Report:
        try:
            if self.trial is None:
                values = {name: tuple(v) if isinstance(v, list) else v for name, v in self.values.items()}
                self.trial = self.seat.trial(values)
                self.trial.next = self.begin
        except Exception as error:  # such as params that fit each by itself, but not together
            return Report(state="failed", reason=str(error))
        return self.trial.advance()

    def cleanup(self) -> None:
        """Release what a trial holds."""
        if self.trial is not None:
            self.trial.close()
        self.trial = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Keep nothing: the training's own checkpoints hold all."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing, likewise."""


def _told(report: Report, search: Search) -> dict[str, Any]:
    """Return a report as Ray has results; done ends the trial, a result without a value is not judged."""
    result: dict[str, Any] = {"report": report, "done": report.state is not None or report.paused}
    if report.values:
        result |= {RUNG: rung_time(search, report.rung), VALUE: report.values[search.objectives[0]]}
    return result
