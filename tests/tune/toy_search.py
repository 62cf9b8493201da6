"""A tiny project with one run and a search of it, in a folder of its own: no download, no DVC."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from toy_data import toy_split

from pipeline.config import Params, read_params
from pipeline.files import write_json
from pipeline.tune.search import task_of
from pipeline.tune.trial import Task

RUN = {"method": "vae", "init_from": "scratch", "images": 640, "batch_size": 16, "width": 8, "latent": 4}
RUN |= {"log_every": 128, "snapshot_every": 320, "checkpoint_every": 256, "watch_every": 256, "net": "mlp"}
SEARCH: dict[str, Any] = {
    "space": {"lr": {"loguniform": [1e-4, 1e-2]}, "beta": {"uniform": [0.5, 8]}},
    "objective": "elbo_bits_per_dim",
    "trials": 4,
    "samples": 16,
    "rungs": [100, 300],
}


def write_project(folder: Path, search: dict[str, Any], run: dict[str, Any] | None = None) -> None:
    """params.yaml, out/data of toy images, and out/code as if no code had ever changed."""
    params = {"data": {"size": 16}, "runs": {"vae": RUN | (run or {})}, "cluster": {"workers": 0}}
    params |= {"evaluate": {"extractors": ["efficientnet_lite0"]}, "search": {"vae": SEARCH | search}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    data = folder / "out/data"
    data.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, count in (("train", 48), ("test", 24)):
        split = toy_split(count)
        np.save(data / f"{name}-images-00000.npy", split.images(range(count)).permute(0, 2, 3, 1).contiguous().numpy())
        np.save(data / f"{name}-labels.npy", split.labels)
        splits[name] = {"count": count, "shards": [f"{name}-images-00000.npy"]}
    write_json(data / "spec.json", {"channels": 1, "size": 16, "classes": [], "splits": splits, "digest": "toy"})
    for name in ("course-vae", "generate-vae", "evaluate"):
        write_json(folder / f"out/code/{name}.json", {"digest": name, "files": {name: name}})


def project_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, Any] | None = None, **search: Any
) -> Task:
    """The search's task, in the project's folder."""
    write_project(folder, search, run)
    monkeypatch.chdir(folder)
    return task(folder)


def task(folder: Path) -> Task:
    params: Params = read_params(folder / "params.yaml")
    return task_of("vae", params, root=folder, out=folder / "out", scratch=folder / ".genloom")
