"""A finished training to out/runs/<run>: the files that the stages after it read."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Data, Run
from pipeline.core.method import Method
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.files import atomic_file, atomic_folder, write_json
from pipeline.inference.weights import save_weights
from pipeline.training.job import Job, Row
from pipeline.training.outcome import Outcome, outcome_of, state_at
from pipeline.training.trainer import draw_snapshot, fixed_batches, snapshot_name
from pipeline.training.watching import alarms_of, announce, look
from pipeline.watch.curves import in_curves

OF_CHECKPOINTS = Path("published")  # a run's result is in out/runs


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run is called and what it is of.

    Attributes:
        name: in params.yaml.
        key: the hash of all that its result depends on.
        params: every param that the result depends on (``flat_params``).
    """

    name: str
    key: str
    params: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a finished training left.

    Attributes:
        folder: of the published files.
        history: all rows of the training.
        seen: images seen by the published weights.
        trained: images seen at the end.
        cost: seconds, images_per_second, wait_share (of the seconds, waiting for images), peak_memory_bytes, and
            parameters by net.
    """

    folder: Path
    history: Sequence[Row]
    seen: int
    trained: int
    cost: Mapping[str, Any]


def publish(about: RunInfo, job: Job, dataset: Dataset, folder: Path, *, at: int | None = None) -> Published:
    """Write weights, history, snapshots and, last, train.json of a training's result.

    Args:
        about: what the run is called, and what it is of.
        job: the run.
        dataset: what it was trained on.
        folder: where to; each file is complete or absent.
        at: images seen at a checkpoint to publish as if the training ended there; None: its outcome.

    Returns:
        What was published.

    Raises:
        UserError: a checkpoint of it is not there whole.
    """
    outcome = (outcome_of(job) or Outcome(job.finished_at, job.finished_at)) if at is None else Outcome(at, at)
    content = _load(job, outcome.end)
    history = _completed(job, dataset, content)
    state = state_at(job, dataset, content["state"])
    if outcome.kept != outcome.end:
        state = state_at(job, dataset, _load(job, outcome.kept)["state"])
    _copy_snapshots(job, history, folder / "snapshots")
    save_weights(
        folder / "weights.safetensors",
        name=job.run.method,
        params=asdict(job.method),
        spec=dataset.spec,
        seen=state.seen,
        nets=state.nets,
        ema=state.ema,
    )
    write_history(folder / "history.csv", history)
    cost = {
        "seconds": content["seconds"],
        "images_per_second": outcome.end / content["seconds"],
        "wait_share": content["waited"] / content["seconds"],
        "peak_memory_bytes": content["peak_memory_bytes"],
        "parameters": {net: sum(p.numel() for p in module.parameters()) for net, module in state.nets.items()},
    }
    facts = {"run": about.name, "method": job.run.method, "key": about.key, "params": dict(about.params)} | cost
    facts |= {"seen": state.seen, "trained": outcome.end, "stopped": outcome.stopped}
    facts |= {"warnings": alarms_of(history, job), "spec": asdict(dataset.spec), "dataset": dict(dataset.info)}
    facts |= {"workers": [{"from": seen, "workers": size} for seen, size in content["worlds"]]}
    facts |= {"threads": content["threads"]}
    write_json(folder / "train.json", facts | {"torch": torch.__version__, "device": content["device"]})
    return Published(folder=folder, history=history, seen=state.seen, trained=outcome.end, cost=cost)


def _load(job: Job, seen: int) -> dict[str, Any]:
    """Return all that a checkpoint holds, or raise UserError if it is not there whole."""
    if not job.storage.fetch_checkpoint(seen):
        raise UserError(f"{job.store}: no whole checkpoint at {seen:,} images. Run `dvc repro` again.")
    return job.checkpoints.load(seen, torch.device("cpu"))


def _completed(job: Job, dataset: Dataset, content: Mapping[str, Any]) -> list[Row]:
    """Return the history with what the end of a budget has, which the checkpoint of a larger one lacks."""
    history: list[Row] = content["history"]
    state, processes = state_at(job, dataset, content["state"]), content["worlds"][-1][1]
    if not history[-1]["snapshot"]:
        fixed = fixed_batches(job, dataset, torch.device("cpu"), processes=processes)
        history[-1]["snapshot"] = draw_snapshot(job, state, fixed)
    if job.run.watch_every and "watched" not in history[-1]:
        history[-1]["watched"] = look(job, state, dataset, torch.device("cpu"), processes=processes)
    announce(history, job)
    return history


def _copy_snapshots(job: Job, history: Sequence[Row], folder: Path) -> None:
    names = [snapshot_name(0), *(row["snapshot"] for row in history if row["snapshot"])]
    job.storage.fetch_snapshots(names)
    with atomic_folder(folder) as temporary:
        for name in names:
            shutil.copy(job.snapshots / name, temporary)


def publish_checkpoint(about: RunInfo, job: Job, dataset: Dataset, *, at: int | None, to: Path | None) -> Path:
    """Publish a checkpoint at hand, in a folder that appears when it is complete.

    Args:
        about: what the run is called, and what it is of.
        job: the run, which may be training.
        dataset: what it is trained on.
        at: images seen at the checkpoint; None: the newest.
        to: the folder, which must not exist; None: published/<run>-<images seen>.

    Returns:
        The folder.

    Raises:
        UserError: there is no such checkpoint, or the folder exists.
    """
    found = job.storage.existing()
    if not found:
        raise UserError(
            f"{about.name}: no checkpoint of this training yet ({job.store}). If params.yaml was changed since it "
            "began, change it back; else wait for runs.<run>.checkpoint_every images."
        )
    seen = found[-1] if at is None else at
    if seen not in found:
        raise UserError(f"{about.name}: no checkpoint at {seen:,} images; there are: {', '.join(map(str, found))}.")
    folder = to or OF_CHECKPOINTS / f"{about.name}-{seen}"
    if folder.exists():
        raise UserError(f"{folder}: exists already. Remove it, or name another folder by --to.")
    with atomic_folder(folder) as temporary:
        publish(about, job, dataset, temporary, at=seen)
    return folder


def write_history(path: Path, history: Sequence[Row]) -> None:
    """Write one line per log window, without the speed, which differs from one machine to the next.

    A measure's cell is empty where nobody looked.

    Args:
        path: of the table.
        history: all rows.
    """
    rows = [row["values"] | in_curves(row) for row in history]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "images_per_second"]
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seen", *names])
        for row, values in zip(history, rows, strict=True):
            writer.writerow([row["seen"], *(values.get(name, "") for name in names)])


def flat_params(data: Data, run: Run, method: Method) -> dict[str, Any]:
    """Return every param that a run's result depends on, defaults included, by its name in params.yaml."""
    source = {f"data.{key}": value for key, value in asdict(data).items() if key not in ("mirror", "path")}
    own = {name: value for name, value in asdict(run).items() if name != "seeds"}
    return own | asdict(method) | source
