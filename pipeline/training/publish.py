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
from pipeline.core.state import State
from pipeline.data.dataset import Dataset
from pipeline.files import atomic_file, atomic_folder, write_json
from pipeline.inference.weights import save_weights
from pipeline.training.job import Job, Row


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a finished training left.

    Attributes:
        folder: of the published files.
        history: all rows of the training.
        seen: images seen.
        cost: seconds, images_per_second, peak_memory_bytes, and parameters by net.
    """

    folder: Path
    history: Sequence[Row]
    seen: int
    cost: Mapping[str, Any]


def publish(name: str, job: Job, dataset: Dataset, params: Mapping[str, Any], folder: Path) -> Published:
    """Write weights, history, snapshots and, last, train.json.

    Args:
        name: the run's.
        job: the run, finished.
        dataset: what it was trained on.
        params: every param that the result depends on (``flat_params``).
        folder: where to; each file is complete or absent.

    Returns:
        What was published.
    """
    content = job.checkpoints.load(job.storage.newest() or 0, torch.device("cpu"))
    state = State.fresh(job.method, dataset.spec, job.run.seed, torch.device("cpu"), freeze=job.run.freeze)
    state.load_state_dict(content["state"])
    history: list[Row] = content["history"]
    job.storage.fetch_snapshots(row["snapshot"] for row in history if row["snapshot"])
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
    with atomic_folder(folder / "snapshots") as temporary:
        shutil.copytree(job.snapshots, temporary, dirs_exist_ok=True)
    cost = {
        "seconds": content["seconds"],
        "images_per_second": state.seen / content["seconds"],
        "peak_memory_bytes": content["peak_memory_bytes"],
        "parameters": {net: sum(p.numel() for p in module.parameters()) for net, module in state.nets.items()},
    }
    about = {"run": name, "method": job.run.method, "key": job.key, "params": dict(params), "seen": state.seen}
    about |= {"spec": asdict(dataset.spec), "dataset": dict(dataset.info), "torch": torch.__version__}
    about |= {"workers": [{"from": seen, "workers": size} for seen, size in content["worlds"]]}
    write_json(folder / "train.json", about | {"device": content["device"]} | cost)
    return Published(folder=folder, history=history, seen=state.seen, cost=cost)


def write_history(path: Path, history: Sequence[Row]) -> None:
    """Write one line per log window, without the speed, which differs from one machine to the next."""
    names = [name for name in history[0]["values"] if name != "images_per_second"]
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seen", *names])
        writer.writerows([row["seen"], *(row["values"][name] for name in names)] for row in history)


def flat_params(data: Data, run: Run, method: Method) -> dict[str, Any]:
    """Return every param that a run's result depends on, defaults included, by its name in params.yaml."""
    source = {f"data.{key}": value for key, value in asdict(data).items() if key not in ("mirror", "path")}
    return asdict(run) | asdict(method) | source
