"""Which stage, params, data, commit and MLflow run made a file; which files, and from what, a run made.

Read from dvc.lock, the runs' mlflow.json and the journals on disk. MLflow is asked only for what they
don't hold; what it can't be asked either is named under ``unknown``.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import hexdigits
from typing import Any

import yaml

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.files import project_root
from pipeline.tracking import journal
from pipeline.tracking.queries import fetch_runs
from pipeline.tracking.shipped import last_reference

LOCK = Path("dvc.lock")
REFERENCE = "mlflow.json"
_SHORTEST_PREFIX = 4
_WIDTH_OF_A_PIPE = 10_000


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage as DVC last ran it. deps, outs: path to md5; params: param to value."""

    name: str
    cmd: str
    params: Mapping[str, Any]
    deps: Mapping[str, str]
    outs: Mapping[str, str]


Stages = Mapping[str, Stage]
Reference = Mapping[str, Any]  # mlflow.json: run_id, run, key, experiment


def lineage(what: str, params: Params) -> dict[str, Any]:
    """Of a file that the pipeline made, or of an MLflow run by its id or the beginning of it. UserError for neither."""
    stages = read_stages()
    path = _relative(what)
    if made := _maker(path, stages):
        return _of_file(path, *made, stages, params)
    if Path(what).exists():
        raise UserError(f"{what}: no stage in {LOCK} made this file. Run `dvc repro`, or name an output of a stage.")
    return _of_run(_find_run(what, params), stages, params)


def _of_file(path: str, out: str, stage: Stage, stages: Stages, params: Params) -> dict[str, Any]:
    """The stage that made it, that stage's ancestors, and the MLflow runs on the way, or, for data, made from it."""
    chain = _upstream(stage, stages)
    found = [_reference_of(item) for item in chain] if _has_runs(chain) else _references_below(stage, stages)
    unknown: list[str] = []
    return {
        "file": path,
        # DVC records a folder as one: a file in it is as recorded if all of the folder is.
        "state": _state(out, stage.outs[out]) if Path(path).exists() else "missing",
        "md5": stage.outs[out],
        "stage": stage.name,
        "chain": [_described(item, stages) for item in chain],
        "runs": [_run(reference, params, unknown) for reference in found if reference],
        "unknown": unknown,
    }


def _of_run(reference: Reference, stages: Stages, params: Params) -> dict[str, Any]:
    """What made the run, and which of its files are on disk."""
    unknown: list[str] = []
    run = _run(reference, params, unknown)
    files = list(_files_of(reference, stages))
    if not files:
        unknown.append("files: none on disk are of this run (it was redone since, or its outputs are not checked out)")
    makers = sorted({stage for stage, _, _ in files})
    return run | {"stages": makers, "files": {path: state for _, path, state in files}, "unknown": unknown}


# ---- dvc.lock


def read_stages() -> dict[str, Stage]:
    """Every stage that DVC has run. UserError where there is no readable dvc.lock."""
    try:
        entries = (yaml.safe_load(LOCK.read_text()) or {}).get("stages", {})
        return {name: _stage(name, entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise UserError(f"{LOCK}: not found. Run the command in the project's folder, after `dvc repro`.") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{LOCK}: not readable: {' '.join(str(error).split())}") from None


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    params = {key: value for section in entry.get("params", {}).values() for key, value in section.items()}
    deps = {item["path"]: item.get("md5", "") for item in entry.get("deps", [])}
    outs = {item["path"]: item.get("md5", "") for item in entry.get("outs", [])}
    return Stage(name=name, cmd=entry["cmd"], params=params, deps=deps, outs=outs)


def _maker(path: str, stages: Stages) -> tuple[str, Stage] | None:
    """The out that is or contains the path, and its stage."""
    return next(((out, stage) for stage in stages.values() for out in stage.outs if _is_within(path, out)), None)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _upstream(stage: Stage, stages: Stages) -> list[Stage]:
    """The stage, then those that made what it read, back to the data."""
    chain = [stage]
    for item in chain:
        for dep in item.deps:
            made = _maker(dep, stages)
            if made and made[1] not in chain:
                chain.append(made[1])
    return chain


def _described(stage: Stage, stages: Stages) -> dict[str, Any]:
    deps = {
        path: {
            "md5": md5,
            "state": _state(path, md5),
            "stage": made[1].name if (made := _maker(path, stages)) else None,
        }
        for path, md5 in stage.deps.items()
    }
    return {"stage": stage.name, "cmd": stage.cmd, "params": dict(stage.params), "deps": deps}


def _state(path: str, md5: str) -> str:
    """Whether the disk holds what DVC recorded."""
    where = Path(path)
    if not where.exists():
        return "missing"
    return "as recorded" if _md5(where) == md5 else "modified since"


def _md5(path: Path) -> str:
    """DVC's hash: of a file's bytes, or of a folder's listing."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _md5(file), "relpath": name} for name, file in files if "__pycache__" not in name]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _relative(what: str) -> str:
    path = Path(what).absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else what


# ---- Runs


def _has_runs(chain: list[Stage]) -> bool:
    return any(Path(out).name == REFERENCE for stage in chain for out in stage.outs)


def _reference_of(stage: Stage) -> Reference | None:
    """The stage's mlflow.json, where it makes one."""
    return next((_read_reference(Path(out)) for out in stage.outs if Path(out).name == REFERENCE), None)


def _read_reference(path: Path) -> Reference | None:
    try:
        content = json.loads(path.read_text())
        return {name: content[name] for name in ("run_id", "run", "key", "experiment")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _references_below(stage: Stage, stages: Stages) -> list[Reference | None]:
    return [_reference_of(other) for other in stages.values() if stage in _upstream(other, stages)]


def _run(reference: Reference, params: Params, unknown: list[str]) -> dict[str, Any]:
    """A run's own record: of its journal, else of MLflow."""
    record = _journaled(reference, params) or _fetched(reference, params, unknown)
    tags = record.get("tags", {})
    return {
        "run_id": reference["run_id"],
        "run": reference["run"],
        "key": reference["key"],
        "experiment": reference["experiment"],
        "status": record.get("status"),
        "commit": tags.get("git.commit"),
        "dirty": tags.get("git.dirty"),
        "dvc_stage": tags.get("dvc.stage"),
        "dvc_experiment": tags.get("dvc.exp_name"),
        "versions": {tag.removeprefix("version."): value for tag, value in tags.items() if tag.startswith("version.")},
        "dataset": record.get("dataset"),
        "params": record.get("params", {}),
    }


def _journals(params: Params) -> Iterator[Path]:
    for path in sorted((project_root() / params.cluster.scratch / "runs").glob(f"*/{journal.NAME}")):
        yield path.parent


def _journaled(reference: Reference, params: Params) -> dict[str, Any] | None:
    for folder in _journals(params):
        start = journal.started(folder)
        if start and (start["name"], start["key"]) == (reference["run"], reference["key"]):
            return journal.summary(folder)
    return None


def _fetched(reference: Reference, params: Params, unknown: list[str]) -> dict[str, Any]:
    """What MLflow knows of a run without a journal here; why not goes to ``unknown``."""
    missing = f"params, dataset, commit, status of run {reference['run']}: its journal is not here, and"
    if reference["run_id"] is None:
        unknown.append(f"{missing} MLflow was not reached when it was made")
        return {}
    try:
        found = next((run for run in fetch_runs(params.tracking) if run["run_id"] == reference["run_id"]), None)
    except UserError as error:
        unknown.append(f"{missing} {error}")
        return {}
    if found is None:
        unknown.append(f"{missing} MLflow has no such run in experiment '{params.tracking.experiment}'")
    return found or {}


def _find_run(prefix: str, params: Params) -> Reference:
    """The one run whose id begins so: among the outputs and journals here, else in MLflow."""
    known = list(_known_runs(params))
    runs = _matching(prefix, known) or _matching(prefix, _in_mlflow(prefix, params))
    if not runs:
        here = ", ".join(sorted({str(run["run_id"])[:8] for run in known})) or "none yet"
        raise UserError(f"{prefix}: neither an output of a stage in {LOCK} nor the id of a run. Runs here: {here}.")
    if len(runs) > 1 and prefix not in runs:
        raise UserError(f"{prefix}: more than one run begins so: {', '.join(sorted(runs))}.")
    return runs[prefix] if prefix in runs else next(iter(runs.values()))


def _matching(prefix: str, runs: Iterable[Reference]) -> dict[str, Reference]:
    usable = len(prefix) >= _SHORTEST_PREFIX
    return {run["run_id"]: run for run in runs if usable and str(run["run_id"]).startswith(prefix)}


def _known_runs(params: Params) -> Iterator[Reference]:
    found: list[Reference | None] = [last_reference(folder) for folder in _journals(params)]
    found += [_read_reference(path) for path in _reference_files()]
    yield from (reference for reference in found if reference and reference["run_id"])


def _in_mlflow(prefix: str, params: Params) -> list[dict[str, Any]]:
    if not set(prefix) <= set(hexdigits):
        return []  # no run's id: a misspelt file must not wait for a server
    try:
        return fetch_runs(params.tracking)
    except UserError as error:
        raise UserError(f"{prefix}: no run here has this id, and {error}") from None


def _reference_files() -> list[Path]:
    return sorted(Path("out/runs").glob(f"*/{REFERENCE}"))


def _files_of(reference: Reference, stages: Stages) -> Iterator[tuple[str, str, str]]:
    """(stage, path, state) of what lies beside the mlflow.json that names the run."""
    for path in _reference_files():
        there = _read_reference(path) or {}
        if (there.get("run"), there.get("key")) != (reference["run"], reference["key"]):
            continue
        for stage in stages.values():
            for out, md5 in stage.outs.items():
                if _is_within(out, path.parent.as_posix()):
                    yield stage.name, out, _state(out, md5)


# ---- For people


def show(result: Mapping[str, Any]) -> None:
    """Prints a lineage."""
    from rich.console import Console
    from rich.tree import Tree

    title = f"{result['file']}  {result['state']}" if "file" in result else _title(result)
    tree = Tree(title)
    for stage in result.get("chain", []):
        _add_stage(tree, stage)
    for run in result.get("runs", [result]):
        _add_run(tree.add(_title(run)) if "file" in result else tree, run)
    for path, state in result.get("files", {}).items():
        tree.add(f"file {path}  {state}")
    for missing in result["unknown"]:
        tree.add(f"unknown: {missing}")
    # In a file or a pipe a line is a line, however long.
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE
    Console(width=width, markup=False).print(tree)


def _title(run: Mapping[str, Any]) -> str:
    return f"run {run['run']}  MLflow {run['run_id'] or 'not reached yet'}"


def _add_stage(tree: Any, stage: Mapping[str, Any]) -> None:
    branch = tree.add(f"stage {stage['stage']}: {stage['cmd']}")
    for name, value in stage["params"].items():
        branch.add(f"param {name} = {json.dumps(value)}")
    for path, dep in stage["deps"].items():
        made = f"  from stage {dep['stage']}" if dep["stage"] else ""
        branch.add(f"dep {path}  {dep['md5'][:12]}  {dep['state']}{made}")


def _add_run(branch: Any, run: Mapping[str, Any]) -> None:
    dirty = {"true": "with uncommitted changes", "false": "clean"}.get(run["dirty"], "")
    facts = {"experiment": run["experiment"], "key": run["key"], "status": run["status"]}
    facts |= {"commit": f"{run['commit']} {dirty}" if run["commit"] else None, "dataset": _dataset(run["dataset"])}
    facts |= {"DVC stage": run["dvc_stage"], "DVC experiment": run["dvc_experiment"]}
    facts |= {"versions": ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()))}
    for name, value in facts.items():
        if value:
            branch.add(f"{name}: {value}")
    for name, value in run["params"].items():
        branch.add(f"param {name} = {value}")


def _dataset(dataset: Any) -> str | None:
    if isinstance(dataset, Mapping):
        return f"{dataset.get('source', 'data')} {dataset.get('digest')}"
    return str(dataset) if dataset else None
