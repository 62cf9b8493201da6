"""What the stages of a run share: the key that says which training a result is of, and its journal."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import PARAMS, Params, read_params
from pipeline.errors import UserError
from pipeline.files import locked, project_root, sha256_of
from pipeline.stages.paths import run_folder
from pipeline.tracking.journal import Journal


def scratch_folder(params: Params, name: str, key: str) -> Path:
    """A run's journal, checkpoints and snapshots: outside the outs, which DVC deletes before a rerun."""
    return project_root() / params.cluster.scratch / "runs" / f"{name}-{key[:16]}"


def content_key(
    name: str, params: Params, data_digest: str, initial: str | None = None, pipeline: Path = Path("dvc.yaml")
) -> str:
    """sha256 over a run's params, its data, the weights it begins from and the code that dvc.yaml declares for it.

    Equal keys mean the same training, so its checkpoints may be resumed; where it runs
    (cluster, tracking) does not enter.
    """
    stage = yaml.safe_load(pipeline.read_text())["stages"]["train"]["do"]
    raw = params.all_runs[name]
    method = raw.get("method")
    declared = [dep.replace("${key}", name).replace("${item.method}", str(method)) for dep in stage["deps"]]
    code = {str(file): sha256_of(file) for dep in declared if dep == "pipeline" for file in _files(Path(dep))}
    content = {"params": raw, "data": data_digest, "code": code}
    if initial:
        content["initial"] = initial
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_train_json(name: str) -> dict[str, Any]:
    """What the train stage published of a run."""
    path = run_folder(name) / "train.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro train@{name}` to make it.") from error
    return content


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One trainer per run's folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training this run; wait for it or stop it.") from None
        yield


@contextmanager
def reopen(name: str) -> Iterator[Journal]:
    """The journal of a trained run, for what comes after training; shipped to the run's own MLflow run."""
    from pipeline.tracking.shipper import shipping

    params = read_params(PARAMS)
    trained = read_train_json(name)
    folder = scratch_folder(params, name, trained["key"])
    with Journal.open(folder) as journal:
        journal.start(name=name, key=trained["key"], params=trained["params"], tags={}, dataset=trained["dataset"])
    with shipping(folder, params.tracking), Journal.open(folder) as journal:
        try:
            yield journal
        except BaseException:
            journal.finish("FAILED")
            raise
        journal.finish("FINISHED")


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
