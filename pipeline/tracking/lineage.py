"""Which stage, params, data, code, commit and MLflow run made a file; which files, and from what, a run made.

Read from dvc.lock, the runs' train.json and the journals on disk. MLflow is asked only for what they don't hold;
what it can't be asked either is named under ``unknown``.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import hexdigits
from typing import Any

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.inference.published import run_of, trainings
from pipeline.tracking import journal
from pipeline.tracking.dvc_lock import LOCK, Stage, Stages, downstream, is_within, maker, read_stages, readers, upstream
from pipeline.tracking.dvc_status import AS_RECORDED, MISSING, Status, read_status
from pipeline.tracking.queries import by_key, fetch_runs
from pipeline.tracking.references import (
    PUBLISHED,
    Reference,
    find_journal,
    list_journals,
    published_trainings,
    read_journaled,
    read_published,
)

CODE = "out/code"
_SHORTEST_PREFIX = 4
_WIDTH_OF_A_PIPE = 10_000


def lineage(what: str, params: Params) -> dict[str, Any]:
    """Return what made a file, or what an MLflow run was made from.

    Args:
        what: A file that the pipeline made, or an MLflow run's id or its beginning.
        params: The project's params.

    Returns:
        Plain values: for a file its state, stage, the chain of stages back to the data, the stages that read it and
        those that follow them, and the runs on the way (for data: made from it); for a run its params, dataset, commit
        and files. ``unknown`` says what is not known.

    Raises:
        UserError: It is neither.
    """
    stages = read_stages()
    path = _relative(what)
    if made := maker(path, stages):
        return _of_file(path, *made, stages, params)
    if Path(what).exists():
        raise UserError(f"{what}: no stage in {LOCK} made this file. Run `dvc repro`, or name an output of a stage.")
    return _of_run(_find_run(what, params), stages, params)


def _of_file(path: str, out: str, stage: Stage, stages: Stages, params: Params) -> dict[str, Any]:
    chain = upstream(stage, stages)
    status = read_status(chain)
    found = _trainings_of(chain, params) or _trainings_from(path, stages, params)
    unknown = _unknown_states(status)
    direct = [reader.name for reader in readers(path, stages)]
    return {
        "file": path,
        # DVC records a folder as one: a file in it is as recorded if all of the folder is.
        "state": status.state(stage, out) if Path(path).exists() else MISSING,
        "md5": stage.outs[out],
        "stage": stage.name,
        "chain": [_described(item, stages, status) for item in chain],
        "read_by": direct,
        "followed_by": [later.name for later in downstream(path, stages) if later.name not in direct],
        "runs": [_run(reference, params, unknown) for reference in found],
        "unknown": unknown,
    }


def _of_run(reference: Reference, stages: Stages, params: Params) -> dict[str, Any]:
    files = list(_files_of(reference, stages, params))
    status = read_status(stage for stage, _ in files)
    unknown = _unknown_states(status)
    run = _run(reference, params, unknown)
    if not files:
        unknown.append("files: none on disk are of this run (it was redone since, or its outputs are not checked out)")
    states = {path: status.state(stage, path) for stage, path in files}
    return run | {"stages": sorted({stage.name for stage, _ in files}), "files": states, "unknown": unknown}


def _unknown_states(status: Status) -> list[str]:
    return [f"states of files: {status.problem}"] if status.problem else []


def _described(stage: Stage, stages: Stages, status: Status) -> dict[str, Any]:
    deps: dict[str, dict[str, Any]] = {}
    for path, md5 in stage.deps.items():
        made, state = maker(path, stages), status.state(stage, path)
        deps[path] = {"md5": md5, "state": state, "stage": made[1].name if made else None}
        if is_within(path, CODE) and state == AS_RECORDED:
            deps[path]["code"] = _read_digest(Path(path))
    return {"stage": stage.name, "cmd": stage.cmd, "params": dict(stage.params), "deps": deps}


def _read_digest(path: Path) -> str | None:
    """Return the digest of the code that decides a stage, of the file that the stage `code` wrote."""
    try:
        return str(json.loads(path.read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _relative(what: str) -> str:
    path = Path(what).absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else what


# ---- Runs


def _trainings_of(chain: Iterable[Stage], params: Params) -> list[Reference]:
    """Return the trainings that the stages published, as far as their train.json is on disk."""
    runs = [Path(out).parent for stage in chain for out in stage.outs if Path(out).name == PUBLISHED]
    published = [folder / PUBLISHED for run in runs for folder in trainings(run)]
    return [training for path in published if (training := read_published(path, params))]


def _trainings_from(path: str, stages: Stages, params: Params) -> list[Reference]:
    """Return the trainings that read a file, or the folder it is in, or what was made from it."""
    return _trainings_of((stage for stage in stages.values() if _reads(stage, path, stages)), params)


def _reads(stage: Stage, path: str, stages: Stages) -> bool:
    return _overlaps(path, {dep for item in upstream(stage, stages) for dep in item.deps})


def _overlaps(path: str, others: Iterable[str]) -> bool:
    """Return whether a file or folder is, holds or lies in one of the others."""
    return any(is_within(path, other) or is_within(other, path) for other in others)


def _run(reference: Reference, params: Params, unknown: list[str]) -> dict[str, Any]:
    """Return a run's own record, from its journal or else from MLflow; say in ``unknown`` what neither has."""
    folder = find_journal(reference, params)
    record: Mapping[str, Any] = (folder and journal.summary(folder)) or {}
    fetched = {} if record and reference.run_id else _fetch(reference, params, bool(record), unknown)
    record = record or fetched
    tags = record.get("tags", {})
    return {
        "run_id": reference.run_id or fetched.get("run_id"),
        "run": reference.run,
        "key": reference.key,
        "experiment": reference.experiment or fetched.get("experiment"),
        "status": record.get("status"),
        "commit": tags.get("git.commit"),
        "dirty": tags.get("git.dirty"),
        "dvc_stage": tags.get("dvc.stage"),
        "dvc_experiment": tags.get("dvc.exp_name"),
        "versions": {tag.removeprefix("version."): value for tag, value in tags.items() if tag.startswith("version.")},
        "dataset": record.get("dataset"),
        "params": record.get("params", {}),
    }


def _fetch(reference: Reference, params: Params, journaled: bool, unknown: list[str]) -> Mapping[str, Any]:
    missing = "MLflow run" if journaled else "MLflow run, params, dataset, commit, status"
    where = "it was not sent from here" if journaled else "its journal is not here"
    lacking = f"{missing} of run {reference.run}: {where}, and"
    try:
        run_id = reference.run_id
        query = f"attributes.run_id = '{run_id}'" if run_id else by_key(reference.run, reference.key)
        found = fetch_runs(params.tracking, query)
    except UserError as error:
        unknown.append(f"{lacking} {error}")
        return {}
    if not found:
        unknown.append(f"{lacking} MLflow has no such run in experiment '{params.tracking.experiment}'")
    return found[0] if found else {}


def _find_run(prefix: str, params: Params) -> Reference:
    """Return the one run whose id begins with ``prefix``: among the journals here, else in MLflow."""
    known = [training for folder in list_journals(params) if (training := read_journaled(folder))]
    runs = _matching(prefix, known) or _matching(prefix, _in_mlflow(prefix, params))
    if not runs:
        here = ", ".join(sorted({run.run_id[:8] for run in known if run.run_id})) or "none yet"
        raise UserError(f"{prefix}: neither an output of a stage in {LOCK} nor the id of a run. Runs here: {here}.")
    if len(runs) > 1 and prefix not in runs:
        raise UserError(f"{prefix}: more than one run begins so: {', '.join(sorted(runs))}.")
    return runs[prefix] if prefix in runs else next(iter(runs.values()))


def _matching(prefix: str, runs: Iterable[Reference]) -> dict[str, Reference]:
    usable = len(prefix) >= _SHORTEST_PREFIX
    return {run.run_id: run for run in runs if usable and run.run_id and run.run_id.startswith(prefix)}


def _in_mlflow(prefix: str, params: Params) -> list[Reference]:
    if not set(prefix) <= set(hexdigits):
        return []  # no run's id: a misspelt file must not wait for a server
    try:
        runs = fetch_runs(params.tracking)
    except UserError as error:
        raise UserError(f"{prefix}: no run here has this id, and {error}") from None
    return [
        Reference(run=run["run"] or "", key=run["key"] or "", run_id=run["run_id"], experiment=run["experiment"])
        for run in runs
    ]


def _files_of(reference: Reference, stages: Stages, params: Params) -> Iterator[tuple[Stage, str]]:
    """Yield the stages' outs that lie next to the train.json of the same training."""
    for folder in published_trainings():
        training = read_published(folder / PUBLISHED, params)
        if training is None or not training.is_same_training(reference):
            continue
        for stage in stages.values():
            yield from ((stage, out) for out in stage.outs if is_within(out, run_of(folder).as_posix()))


# ---- For people


def show(result: Mapping[str, Any]) -> None:
    """Print a lineage for people."""
    from rich.console import Console
    from rich.tree import Tree

    title = f"{result['file']}  {result['state']}" if "file" in result else _title(result)
    tree = Tree(title)
    for stage in result.get("chain", []):
        _add_stage(tree, stage)
    for what, key in (("read by", "read_by"), ("then", "followed_by")):
        if result.get(key):
            tree.add(f"{what}: {', '.join(result[key])}")
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
        content = f"code {dep['code'][:12]}" if dep.get("code") else dep["md5"][:12]
        branch.add(f"dep {path}  {content}  {dep['state']}{made}")


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
