"""Sends one folder's journal to its MLflow run; every step may be repeated, in this or another process.

Metrics carry the journal's own times, so MLflow drops what it already has; pictures and artifacts have names that a
repetition overwrites.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.tracking import journal
from pipeline.tracking.description import describe, write_description
from pipeline.tracking.images import log_picture, stem_of, unique_of
from pipeline.tracking.journal import Record
from pipeline.tracking.model import publish_model
from pipeline.tracking.queries import by_key, search_runs
from pipeline.tracking.shipped import STATE, Shipped, sole_sender
from pipeline.tracking.standing import FINAL_SAMPLES, PICTURES, Standing, correct, is_same_text
from pipeline.tracking.target import Target, connect, find_or_create_experiment, prepare, reason, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_logger = logging.getLogger(__name__)

ORIGIN = "genloom.made_from"  # a tag: what a run was made of that no training here sent
# The server refused the content and will always do so; anything else may pass.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_DIGEST_LENGTH = 36
_SYNC_WAIT = 10.0


def sync(folder: Path, tracking: Tracking, everything: bool = False) -> list[str]:
    """Send what MLflow lacks of a journal; block until it is sent.

    Args:
        folder: The journal's folder.
        tracking: Where MLflow is.
        everything: Send all of the journal again, which changes nothing that MLflow has.

    Returns:
        What MLflow refused, and why.

    Raises:
        UserError: MLflow can't be reached, or another process is sending this journal.
    """
    agree(folder, tracking, everything)
    return Shipped.read(folder, resolve(tracking)).refused


def agree(
    folder: Path, tracking: Tracking, everything: bool = False, standing: Standing | None = None
) -> tuple[list[str], list[str]]:
    """Send what MLflow lacks of a journal, then put right what its run says otherwise than the published files.

    Args:
        folder: The journal's folder.
        tracking: Where MLflow is.
        everything: Send all of the journal again, which changes nothing that MLflow has.
        standing: What the files say; None: of this training none are here.

    Returns:
        What was put right, and what a person should know of it.

    Raises:
        BusyError: Another process is sending this journal.
        UserError: MLflow can't be reached.
    """
    target = resolve(tracking)
    with sole_sender(folder, _SYNC_WAIT):
        if everything:
            (folder / STATE).unlink(missing_ok=True)
        prepare(target)
        sender = Sender(folder, target)
        try:
            sender.send(last=True)
            corrected = sender.correct(standing) if standing else []
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{folder}: MLflow at {target.shown} can't be reached: {reason(error)}") from error
    return corrected, sender.notes


class Sender:
    """Brings one folder's journal to its MLflow run, which it finds or creates."""

    def __init__(self, folder: Path, target: Target) -> None:
        self._folder = folder
        self._target = target
        self._state = Shipped.read(folder, target)
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._begun_elsewhere = False
        self._stands: dict[str, float] = {}  # a result that a run of elsewhere says already is no new point
        self._pictures_there: list[str] | None = None
        self.notes: list[str] = []

    def send(self, last: bool = False) -> None:
        """Send what is new; raise whatever MLflow, a database or a disk raises.

        last: nobody will write more, so a run that has not ended was killed.
        """
        start = journal.started(self._folder)
        if start is None:
            return
        client = self._client or self._connect(start)
        self._client = client
        self._send_journal(client)
        if last and not journal.is_open(self._folder) and self._unfinished():
            client.set_terminated(self._run_id, "KILLED", self._last_time())

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has it."""
        return self._state.run_id

    @property
    def _run_id(self) -> str:
        assert self._state.run_id is not None
        return self._state.run_id

    def _connect(self, start: Record) -> "MlflowClient":
        client = connect(self._target)
        self._experiment = find_or_create_experiment(client, self._target)
        run = self._find_run(client, start)
        if run is None:
            tags = {"genloom.key": start["key"], "genloom.run": start["name"]}
            run = client.create_run(self._experiment, start_time=start["time"], tags=tags, run_name=start["name"])
        self._begun_elsewhere = run.info.start_time != start["time"]
        self._stands = dict(run.data.metrics) if self._begun_elsewhere else {}
        if run.info.run_id != self._state.run_id:
            self._state = Shipped(self._target.digest, self._target.experiment, run.info.run_id)
            if self._begun_elsewhere:  # it has the training from the machine that did it
                self._state.base = self._state.offset = journal.end_of_restored(self._folder)
        if self._state.base and run.info.status != "FINISHED":
            self.notes.append(
                f"MLflow's run {run.info.run_id} of this training is {run.info.status}, so its curves may lack their "
                "end: `genloom sync` on the machine that trained it sends them. If that is gone, delete the run in "
                "MLflow: `genloom sync` here then makes one of the published files"
            )
        self._state.write(self._folder)
        return client

    def _find_run(self, client: "MlflowClient", start: Record) -> "Run | None":
        """Return the training's run; one that was made of published files gives way to the journal of the training."""
        known = _get_active_run(client, self._state.run_id)
        if known is not None:
            return known
        for run in search_runs(client, self._experiment, by_key(start["name"], start["key"])):
            if ORIGIN not in run.data.tags or start.get("restored"):
                return run
            client.delete_run(run.info.run_id)
            self.notes.append(
                f"the training's own journal takes the place of MLflow's run {run.info.run_id}, which was made of "
                "published files and is deleted now (`mlflow gc` or the page's filter finds it)"
            )
        return None

    def correct(self, standing: Standing) -> list[str]:
        """Put right what the run says otherwise than the published files; return what, a few words each."""
        if self._client is None or self._state.run_id is None:
            return []
        said = correct(self._client, self._run_id, standing)
        write_description(self._client, self._run_id, describe(standing, self._run_id))
        if f"tag {PICTURES}" in said:
            self._send_pictures_again(self._client)
        return said

    def _send_pictures_again(self, client: "MlflowClient") -> None:
        """Send the latest of each picture, which another machine's have replaced."""
        latest: dict[tuple[Any, ...], Record] = {}
        for record, _ in journal.read(self._folder / journal.NAME):
            match record:
                case {"kind": "image", "key": key, "step": step} if key == FINAL_SAMPLES:
                    latest[key, step] = record
                case {"kind": "artifact", "folder": folder, "file": file} if folder == PICTURES:
                    latest[folder, Path(file).name] = record
        for record in latest.values():
            self._try(record["kind"], partial(self._apply, client, record))

    def _send_journal(self, client: "MlflowClient") -> None:
        path, offset = self._folder / journal.NAME, self._state.offset
        if path.exists() and offset > path.stat().st_size:
            offset = self._state.base  # a crash of the machine cut the file: repeating is harmless, a gap is not
        batch: list[Record] = []
        for record, end in journal.read(path, offset):
            if record["kind"] == "metrics":
                batch.append(record)
            else:
                self._send_metrics(client, batch)
                batch = []
                self._try(record["kind"], partial(self._apply, client, record))
            offset = end
            if not batch or sum(len(item["values"]) for item in batch) >= _METRICS_PER_BATCH:
                self._send_metrics(client, batch)
                batch = []
                self._advance(offset)
        self._send_metrics(client, batch)
        self._advance(offset)

    def _advance(self, offset: int) -> None:
        if self._state.offset != offset:
            self._state.offset = offset
            self._state.write(self._folder)

    def _try(self, what: str, action: Callable[[], Any]) -> None:
        """Call it; re-raise what may succeed later, note what MLflow will never take or what is no longer on disk."""
        from mlflow.exceptions import MlflowException

        try:
            action()
        except FileNotFoundError as error:
            self._refuse(what, reason(error))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another database, or the run is gone: begin anew
                self._client, self._state = None, Shipped(self._target.digest, self._target.experiment)
            if error.error_code not in _REFUSALS:
                raise
            self._refuse(what, reason(error))

    def _refuse(self, what: str, why: str) -> None:
        self._state.refused.append(f"{what}: {why}")
        _logger.warning(self._state.refused[-1])

    def _send_metrics(self, client: "MlflowClient", records: list[Record]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, record["time"], record["step"])
            for record in records
            for key, value in record["values"].items()
            if record["once"] or self._stands.get(key) != value
        ]
        self._stands |= {point.key: point.value for point in points if point.key in self._stands}
        for part in _batches(points, _METRICS_PER_BATCH):
            self._try("metrics", partial(client.log_batch, self._run_id, metrics=part))

    def _apply(self, client: "MlflowClient", record: Record) -> None:
        match record:
            case {"kind": "start" | "resume", "params": params, "tags": tags}:
                client.update_run(self._run_id, status="RUNNING")
                self._send_tags(client, tags)
                self._send_params(client, params)
                if dataset := record.get("dataset"):
                    client.log_inputs(self._run_id, [_dataset_input(dataset)])
            case {"kind": "tags", "tags": tags}:
                self._send_tags(client, tags)
            case {"kind": "image"}:
                self._send_image(client, record)
            case {"kind": "artifact", "file": file, "folder": folder}:
                client.log_artifact(self._run_id, str(self._folder / file), folder or None)
            case {"kind": "model", "file": file}:
                classes = ((journal.started(self._folder) or {}).get("dataset") or {}).get("classes", ())
                if problem := publish_model(client, self._experiment, self._run_id, self._folder / file, classes):
                    self._refuse("model", problem)
            case {"kind": "finish", "status": status}:
                client.set_terminated(self._run_id, status, record["time"])

    def _send_tags(self, client: "MlflowClient", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _batches([RunTag(key, value) for key, value in tags.items()], _PARAMS_PER_BATCH):
            client.log_batch(self._run_id, tags=part)

    def _send_params(self, client: "MlflowClient", params: Mapping[str, Any]) -> None:
        """Log the params that are new: MLflow's can't change, and one that differs would make it refuse them all."""
        from mlflow.entities import Param

        known = client.get_run(self._run_id).data.params
        for key in [key for key, value in params.items() if not is_same_text(known.get(key, str(value)), str(value))]:
            self._refuse(f"param {key}", f"MLflow holds {known[key]}, the journal {params[key]}")
        new = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for part in _batches(new, _PARAMS_PER_BATCH):
            client.log_batch(self._run_id, params=part)

    def _send_image(self, client: "MlflowClient", record: Record) -> None:
        """Send a picture with the journal's time, under a name that a repetition overwrites."""
        key, step = record["key"], record["step"]
        stem = self._find_picture(client, unique_of(key, step)) or stem_of(key, step, record["time"])
        log_picture(client, self._run_id, self._folder / record["file"], stem)

    def _find_picture(self, client: "MlflowClient", unique: str) -> str | None:
        """Return the name under which a run that was begun elsewhere has a picture, so that it is replaced."""
        if not self._begun_elsewhere:
            return None
        if self._pictures_there is None:
            listed = client.list_artifacts(self._run_id, "images")
            self._pictures_there = [Path(item.path).name for item in listed]
        end = f"+{unique}.png"
        return next((name.removesuffix(".png") for name in self._pictures_there if name.endswith(end)), None)

    def _unfinished(self) -> bool:
        summary = journal.summary(self._folder)
        return summary is not None and summary["status"] == "RUNNING"

    def _last_time(self) -> int:
        return max(int(record["time"]) for record, _ in journal.read(self._folder / journal.NAME))


def _get_active_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run and run.info.lifecycle_stage == "active" else None


def _dataset_input(info: Mapping[str, Any]) -> Any:
    """Return out/data/spec.json as MLflow's dataset; its digest holds 36 characters, so the profile has all of it."""
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype("uint8"), (-1, info["channels"], info["size"], info["size"]), "images")
    labels = TensorSpec(np.dtype("int64"), (-1,), "labels")
    dataset = Dataset(
        name=str(info.get("source", "data")),
        digest=str(info["digest"])[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": "out/data"}),
        schema=json.dumps(TensorDatasetSchema(Schema([images]), Schema([labels])).to_dict()),
        profile=json.dumps(info),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
