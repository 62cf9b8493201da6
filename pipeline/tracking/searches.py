"""A search in MLflow: a parent run, and a child for each trial with its params, its values by images, and how it ended.

All of it may be sent again, by this or another process: runs are found by their tags, and a metric with the record's
own time is one that MLflow has already.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Tracking
from pipeline.tracking.queries import search_runs
from pipeline.tracking.tags import code_tags
from pipeline.tracking.target import connect, find_or_create_experiment, find_outage, prepare, reason, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SEARCH, TRIAL, STATE, REASON, BEST = (f"genloom.{name}" for name in ("search", "trial", "state", "reason", "best"))
PARENT = "mlflow.parentRunId"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
_LONGEST_TAG = 4000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """A trial's values at a rung: images seen, when in ms since 1970, and numbers by name."""

    images: int
    time: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SentTrial:
    """A trial as MLflow shows it.

    Attributes:
        number: from 0.
        key: of its training's course.
        params: that were searched for.
        points: its values.
        state: how it ended; None: it goes on.
        reason: why.
        begun: when, in ms since 1970.
        ended: likewise.
        best: whether no other one is better.
    """

    number: int
    key: str
    params: Mapping[str, Any]
    points: Sequence[TrialPoint]
    state: str | None
    reason: str
    begun: int
    ended: int
    best: bool


@dataclass(frozen=True, kw_only=True)
class SentSearch:
    """A search as MLflow shows it.

    Attributes:
        run: the run's name.
        key: of the search.
        settings: how it searches.
        trials: in the order of their beginning.
        files: that belong to it.
    """

    run: str
    key: str
    settings: Mapping[str, Any]
    trials: Sequence[SentTrial]
    files: Sequence[Path]


def send_search(search: SentSearch, tracking: Tracking) -> str | None:
    """Send a search to MLflow; what is there already is not doubled.

    Args:
        search: what to send.
        tracking: where MLflow is.

    Returns:
        Where a person sees it; None if MLflow does not answer, which is logged: the search has its own record.
    """
    target = resolve(tracking)
    try:
        if outage := find_outage(target):
            raise ConnectionError(outage)
        prepare(target)
        client = connect(target)
        run_id = _Sender(client, find_or_create_experiment(client, target), search).send()
    except Exception as error:  # whatever a server or a database raises
        logger.warning(
            "MLflow at %s does not have this search: %s. `make tune RUN=%s` sends it once it answers.",
            target.shown,
            reason(error),
            search.run,
        )
        return None
    return target.page(run_id)


class _Sender:
    """Brings a search to MLflow's runs, which it finds or creates."""

    def __init__(self, client: "MlflowClient", experiment: str, search: SentSearch) -> None:
        self.client, self.experiment, self.search = client, experiment, search

    def send(self) -> str:
        found = search_runs(self.client, self.experiment, f"tags.`{SEARCH}` = '{self.search.key}'")
        parents = [run for run in found if TRIAL not in run.data.tags]
        parent = parents[0] if parents else self._parent()
        children = {run.data.tags[TRIAL]: run for run in found if TRIAL in run.data.tags}
        for trial in self.search.trials:
            self._send_trial(trial, children.get(str(trial.number)), parent.info.run_id)
        self._send_parent(parent)
        return str(parent.info.run_id)

    def _parent(self) -> "Run":
        begun = min((trial.begun for trial in self.search.trials), default=None)
        tags = {**code_tags(), SEARCH: self.search.key, "genloom.searched": self.search.run}
        return self.client.create_run(
            self.experiment, start_time=begun, tags=tags, run_name=f"search of {self.search.run}"
        )

    def _send_parent(self, parent: "Run") -> None:
        run_id, best = parent.info.run_id, [trial for trial in self.search.trials if trial.best]
        self._send_params(run_id, self.search.settings, parent.data.params)
        for trial in best[:1]:
            self.client.set_tag(run_id, BEST, f"trial {trial.number}")
            for name, value in trial.points[-1].values.items():
                if parent.data.metrics.get(name) != value:
                    self.client.log_metric(run_id, name, value, trial.points[-1].time, trial.points[-1].images)
        for path in self.search.files:
            self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id, "FINISHED", max((trial.ended for trial in self.search.trials), default=None))

    def _send_trial(self, trial: SentTrial, known: "Run | None", parent: str) -> None:
        from mlflow.entities import Metric

        if known is None:
            tags = {SEARCH: self.search.key, TRIAL: str(trial.number), PARENT: parent, "genloom.course": trial.key}
            known = self.client.create_run(
                self.experiment, start_time=trial.begun, tags=tags, run_name=f"{self.search.run} trial {trial.number}"
            )
        run_id = known.info.run_id
        self._send_params(run_id, trial.params, known.data.params)
        points = [
            Metric(name, value, point.time, point.images)
            for point in trial.points
            for name, value in point.values.items()
        ]
        if points:
            self.client.log_batch(run_id, metrics=points)
        for name, text in (
            (STATE, trial.state or "unfinished"),
            (REASON, trial.reason),
            (BEST, str(trial.best).lower()),
        ):
            if known.data.tags.get(name, "") != text:
                self.client.set_tag(run_id, name, text[:_LONGEST_TAG])
        if trial.state is not None and known.info.status == "RUNNING":
            self.client.set_terminated(run_id, _STATUS.get(trial.state, "KILLED"), trial.ended)

    def _send_params(self, run_id: str, params: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the params that are new; MLflow's cannot change."""
        from mlflow.entities import Param

        new = [Param(name, str(value)) for name, value in params.items() if name not in known]
        if new:
            self.client.log_batch(run_id, params=new)
