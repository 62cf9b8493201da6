"""A search in MLflow: a parent run, and a child for each trial with its params, its values by images, and how it ended.

All of it may be sent again, by this or another process: runs are found by their tags, and a metric with the record's
own time is one that MLflow has already.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from pipeline.config import Tracking
from pipeline.files import write_json
from pipeline.tracking.images import log_picture, stem_of
from pipeline.tracking.queries import search_runs
from pipeline.tracking.shipped import sole_sender
from pipeline.tracking.tags import code_tags
from pipeline.tracking.target import Target, connect, find_or_create_experiment, find_outage, prepare, reason, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SEARCH, TRIAL, STATE, REASON, BEST = (f"genloom.{name}" for name in ("search", "trial", "state", "reason", "best"))
PARENT = "mlflow.parentRunId"
SAMPLES = "samples"
_STATUS = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
_LONGEST_TAG = 4000
OTHER_SENDER_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """A trial's values at a rung: images seen, when in ms since 1970, and numbers by name."""

    images: int
    time: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SentPicture:
    """A grid of a trial's samples: images seen, when in ms since 1970, and its file."""

    images: int
    time: int
    file: str


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
        pictures: of its samples.
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
    pictures: Sequence[SentPicture] = ()


@dataclass(frozen=True, kw_only=True)
class SentSearch:
    """A search as MLflow shows it.

    Attributes:
        run: the run's name.
        key: of the search.
        settings: how it searches.
        trials: in the order of their beginning.
        files: that belong to it.
        objective: the name of the metric that ranks.
        ascending: whether less of it is better.
        status: of its run in MLflow.
    """

    run: str
    key: str
    settings: Mapping[str, Any]
    trials: Sequence[SentTrial]
    files: Sequence[Path]
    objective: str
    ascending: bool
    status: Literal["RUNNING", "FINISHED", "KILLED"] = "FINISHED"


def write_search(path: Path, search: SentSearch) -> None:
    """Write a search to a file, for the process that sends it."""
    write_json(path, asdict(search) | {"files": [str(file) for file in search.files]})


def read_search(path: Path) -> SentSearch | None:
    """Return what ``write_search`` wrote; None if it is not there."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    trials = [
        SentTrial(
            **{
                **trial,
                "points": [TrialPoint(**point) for point in trial["points"]],
                "pictures": [SentPicture(**picture) for picture in trial["pictures"]],
            }
        )
        for trial in content["trials"]
    ]
    return SentSearch(**{**content, "trials": trials, "files": [Path(file) for file in content["files"]]})


def send_search(search: SentSearch, tracking: Tracking, folder: Path) -> str | None:
    """Send a search to MLflow; what is there already is not doubled.

    Args:
        search: what to send.
        tracking: where MLflow is.
        folder: of the search's record, so that one process at a time sends it.

    Returns:
        Where a person sees it: the table of its trials, the best first. None if MLflow does not answer, which is
        logged: the search has its own record.
    """
    target = resolve(tracking)
    try:
        if outage := find_outage(target):
            raise ConnectionError(outage)
        with sole_sender(folder, OTHER_SENDER_SECONDS):
            prepare(target)
            client = connect(target)
            experiment = find_or_create_experiment(client, target)
            run_id = SearchSender(client, experiment, search).send()
    except Exception as error:  # whatever a server or a database raises
        logger.warning(
            "MLflow at %s does not have this search: %s. `make tune RUN=%s` sends it once it answers.",
            target.shown,
            reason(error),
            search.run,
        )
        return None
    return _table(target, experiment, search) or target.page(run_id)


def _table(target: Target, experiment: str, search: SentSearch) -> str | None:
    """Return the address of the table of a search's trials; None where MLflow has no pages of its own."""
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.`{SEARCH}` = '{search.key}'",
        "orderByKey": f"metrics.`{search.objective}`",
        "orderByAsc": str(search.ascending).lower(),
    }
    served = " (while `genloom ui` runs)" if target.is_database else ""
    return f"{target.pages}/#/experiments/{experiment}/runs?{urlencode(query)}{served}" if target.pages else None


class SearchSender:
    """Brings a search to MLflow's runs, which it finds or creates; what it has sent itself it does not send again.

    Args:
        client: of MLflow.
        experiment: the id of the experiment.
        search: what to send; later calls of ``send`` may have more of it.
    """

    def __init__(self, client: "MlflowClient", experiment: str, search: SentSearch) -> None:
        self.client, self.experiment, self.search = client, experiment, search
        self.sent: dict[int, SentTrial] = {}
        self.pictures = set[str]()

    def send(self, search: SentSearch | None = None) -> str:
        """Send all that is new.

        Args:
            search: as it is now; None: as it was given at first.

        Returns:
            The id of the search's own run.
        """
        self.search = search or self.search
        found = search_runs(self.client, self.experiment, f"tags.`{SEARCH}` = '{self.search.key}'")
        parents = [run for run in found if TRIAL not in run.data.tags]
        parent = parents[0] if parents else self._parent()
        children = {run.data.tags[TRIAL]: run for run in found if TRIAL in run.data.tags}
        for trial in self.search.trials:
            if self.sent.get(trial.number) != trial:
                self._send_trial(trial, children.get(str(trial.number)), parent.info.run_id)
                self.sent[trial.number] = trial
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
        if self.search.status == "RUNNING":
            if parent.info.status != "RUNNING":
                self.client.update_run(run_id, status="RUNNING")
        else:
            ended = max((trial.ended for trial in self.search.trials), default=None)
            self.client.set_terminated(run_id, self.search.status, ended)

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
        self._send_pictures(run_id, trial)
        if trial.state is not None and known.info.status == "RUNNING":
            self.client.set_terminated(run_id, _STATUS.get(trial.state, "KILLED"), trial.ended)

    def _send_pictures(self, run_id: str, trial: SentTrial) -> None:
        """Send those that are not there yet."""
        waiting = [(f"{run_id} {picture.images}", picture) for picture in trial.pictures]
        waiting = [(name, picture) for name, picture in waiting if name not in self.pictures]
        if not waiting:
            return
        there = {Path(item.path).name for item in self.client.list_artifacts(run_id, "images")}
        for name, picture in waiting:
            stem = stem_of(SAMPLES, picture.images, picture.time)
            if f"{stem}.png" not in there and Path(picture.file).exists():
                log_picture(self.client, run_id, Path(picture.file), stem)
            self.pictures.add(name)

    def _send_params(self, run_id: str, params: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the params that are new; MLflow's cannot change."""
        from mlflow.entities import Param

        new = [Param(name, str(value)) for name, value in params.items() if name not in known]
        if new:
            self.client.log_batch(run_id, params=new)
