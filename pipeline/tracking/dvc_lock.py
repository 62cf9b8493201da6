"""What DVC recorded of every stage in dvc.lock, and what made what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

LOCK = Path("dvc.lock")
LISTINGS = Path("data/dvc.lock")  # of the stages that list what lies at data.path


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage as DVC last ran it. deps, outs: path to md5; params: param to value."""

    name: str
    cmd: str
    params: Mapping[str, Any]
    deps: Mapping[str, str]
    outs: Mapping[str, str]


Stages = Mapping[str, Stage]


def read_stages() -> dict[str, Stage]:
    """Return every stage that DVC has run, by DVC's name for it.

    Returns:
        The stages in the order of dvc.lock, those of data/dvc.lock last.

    Raises:
        UserError: There is no readable dvc.lock in the current folder.
    """
    try:
        entries = dict((yaml.safe_load(LOCK.read_text()) or {}).get("stages", {}))
        if LISTINGS.exists():
            listings = (yaml.safe_load(LISTINGS.read_text()) or {}).get("stages", {})
            entries |= {f"{LISTINGS.with_suffix('.yaml').as_posix()}:{name}": entry for name, entry in listings.items()}
        return {name: _stage(name, entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise UserError(f"{LOCK}: not found. Run the command in the project's folder, after `dvc repro`.") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{LOCK}: not readable: {' '.join(str(error).split())}") from None


def maker(path: str, stages: Stages) -> tuple[str, Stage] | None:
    """Return the out that is or contains the path, and the stage that made it."""
    return next(((out, stage) for stage in stages.values() for out in stage.outs if is_within(path, out)), None)


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is the folder or lies below it."""
    return path == folder or path.startswith(f"{folder}/")


def upstream(stage: Stage, stages: Stages) -> list[Stage]:
    """Return the stage, then those that made what it read, back to the data."""
    chain = [stage]
    for item in chain:
        for dep in item.deps:
            chain += [made for made in makers(dep, stages) if made not in chain]
    return chain


def makers(path: str, stages: Stages) -> list[Stage]:
    """Return the stages that made a file or folder, or files inside it: `report` reads the folder of all runs."""
    return [
        stage for stage in stages.values() if any(is_within(path, out) or is_within(out, path) for out in stage.outs)
    ]


def readers(path: str, stages: Stages) -> list[Stage]:
    """Return the stages that read a file, or a folder that it is in or that is in it."""
    return [
        stage for stage in stages.values() if any(is_within(path, dep) or is_within(dep, path) for dep in stage.deps)
    ]


def downstream(path: str, stages: Stages) -> list[Stage]:
    """Return the stages that read a file, then those that read what these made, to the end."""
    chain = readers(path, stages)
    for stage in chain:
        for out in stage.outs:
            chain += [reader for reader in readers(out, stages) if reader not in chain]
    return chain


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    params = {key: value for section in entry.get("params", {}).values() for key, value in section.items()}
    deps = {item["path"]: item.get("md5", "") for item in entry.get("deps", [])}
    outs = {item["path"]: item.get("md5", "") for item in entry.get("outs", [])}
    return Stage(name=name, cmd=entry["cmd"], params=params, deps=deps, outs=outs)
