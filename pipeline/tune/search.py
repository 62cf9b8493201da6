"""A search of params.yaml, made ready: where its record is, and what its trials have in common."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import PARAMS, Params
from pipeline.dependencies.entries import read_code
from pipeline.errors import UserError, nearest
from pipeline.training.prepare import prepared
from pipeline.tune.checks import check_search
from pipeline.tune.objective import find
from pipeline.tune.trial import Task

# They say how long and where; all else decides what a trial is, or which comes next.
ELSEWHERE = ("trials", "images", "seconds", "gpu_hours", "cpus_per_trial", "gpus_per_trial", "concurrent", "confirm")

POPULATION = ("quantile", "factor", "resample")


def task_of(name: str, params: Params, *, root: Path, out: Path, scratch: Path) -> Task:
    """Return what the trials of a run's search have in common, checked.

    Args:
        name: the run's.
        params: of the project.
        root: the project's folder.
        out: the folder of the stages' outputs.
        scratch: the folder of trainings and searches.

    Returns:
        The task; its folder is that of the record: another space, objective, protocol, code or data has another one.

    Raises:
        UserError: there is no such search, or it does not fit its run.
    """
    if name not in params.search:
        known = nearest(name, params.search) if params.search else "Name a space and an objective there."
        raise UserError(f"{PARAMS}: search.{name}: there is no search of this run. {known}")
    check_search(name, params)
    search = params.search[name]
    objectives = tuple(find(one, params.evaluate, f"{PARAMS}: search.{name}.objective") for one in search.objectives)
    with prepared(name, params, out=out, scratch=scratch) as ready:
        code = {**read_code(f"generate-{ready.job.run.method}"), **read_code("evaluate")}
        of: dict[str, Any] = {"run": ready.job.key, "images": ready.job.run.images, "code": code}
    of["search"] = {key: value for key, value in asdict(search).items() if key not in ELSEWHERE}
    if search.scheduler == "pbt":
        of["population"] = search.trials
    else:  # what only a population has decides nothing elsewhere
        of["search"] = {key: value for key, value in of["search"].items() if key not in POPULATION}
    folder = scratch / "search" / f"{name}-{_hash(of)}"
    return Task(
        name=name,
        params=params,
        search=search,
        objectives=objectives,
        root=root,
        out=out.absolute(),
        scratch=scratch,
        folder=folder,
    )


def _hash(of: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()[:16]
