"""params.yaml to frozen, keyword-only dataclasses; what does not fit fails with file, key and remedy.

Importing this reads nothing and needs no torch. A run's own settings (``runs.<run>``) are the
fields of Run plus those of its method, which ``methods.configure`` checks where torch is needed anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import yaml
from pydantic import Field

from pipeline.config.pictures import Render
from pipeline.config.search import FIXED, Domain, Search, read_space
from pipeline.config.sections import (
    LAST,
    MEASURES,
    PROGRAM,
    RUN_NAME,
    SCRATCH,
    STATISTICS,
    WARNINGS,
    Cluster,
    Count,
    Data,
    Evaluate,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Probability,
    Run,
    Share,
    Tracking,
    Unit,
)
from pipeline.config.validation import checked, field_names, misfits, shown, unknown, validated
from pipeline.errors import UserError, nearest, refuse

__all__ = [
    "FIXED",
    "LAST",
    "MEASURES",
    "PARAMS",
    "PROGRAM",
    "RUN_NAME",
    "SCRATCH",
    "STATISTICS",
    "WARNINGS",
    "Cluster",
    "Count",
    "Data",
    "Domain",
    "Evaluate",
    "Fraction",
    "NonNegative",
    "Params",
    "Positive",
    "PositiveFloat",
    "Probability",
    "Render",
    "Run",
    "Search",
    "Share",
    "Tracking",
    "Unit",
    "general_settings",
    "is_in_mlflow",
    "parse",
    "read_params",
    "read_run",
]

PARAMS = Path("params.yaml")


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml but the methods' own fields: runs maps a name to its raw mapping, search to its search."""

    DECIDES_NOTHING = "a section decides what its own class decides"

    data: Data
    runs: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    cluster: Cluster
    evaluate: Evaluate
    render: Render
    tracking: Tracking
    search: dict[str, Search] = field(default_factory=dict)


def parse(path: Path = PARAMS) -> tuple[dict[str, Any], list[str]]:
    """Read params.yaml and check each section by itself.

    Args:
        path: of the file.

    Returns:
        The sections that are right, by name (``runs`` as it stands there), and everything that is wrong with the
        others: one line each with file, key and remedy.

    Raises:
        UserError: the file is no mapping, or cannot be read.
    """
    raw = _read_yaml(path)
    kinds = get_type_hints(Params)
    if "derived" in raw:
        raise UserError(
            f"{path}: derived: runs that begin from another one now stand under runs, with init_from: runs/<run>; "
            "all others say init_from: scratch. Move them and remove derived."
        )
    sections: dict[str, Any] = {}
    problems = [f"{path}: {line}" for line in unknown(raw, list(kinds), "")]
    for name, kind in kinds.items():
        section = raw.get(name, {})
        if not isinstance(section, dict):
            found = [f"{name}: expected a mapping of settings, got {shown(section)}."]
        elif name == "runs":
            found = _problems_of_runs(section)
        elif name == "search":
            found = _problems_of_search(section, raw.get("runs"))
        else:
            found = [*unknown(section, field_names(kind), f"{name}."), *misfits(kind, section, f"{name}.")]
        problems += [f"{path}: {line}" for line in found]
        if not found:
            sections[name] = _made(name, kind, section)
    return sections, problems


def _made(name: str, kind: Any, section: dict[str, Any]) -> Any:
    """Return a section that is right: runs as they stand in the file, a search by run, or a dataclass."""
    if name == "runs":
        return section
    if name == "search":
        return {run: validated(Search, search) for run, search in section.items()}
    return validated(kind, section)


def read_params(path: Path = PARAMS) -> Params:
    """Read params.yaml and check every section; ``read_run`` and ``methods.configure`` check a run.

    Args:
        path: of the file.

    Returns:
        Every section with its defaults, and the runs as they stand there.

    Raises:
        UserError: the file cannot be read, a key is unknown, or a value does not fit; with file, key and remedy.
    """
    sections, problems = parse(path)
    refuse(problems)
    return Params(**sections)


def _problems_of_runs(runs: Mapping[Any, Any]) -> list[str]:
    if not runs:
        return ["runs: name at least one run, such as dcgan: {method: dcgan, init_from: scratch}."]
    problems = _misnamed(runs)
    problems += [
        f"runs.{name}: expected a mapping of settings, got {shown(run)}."
        for name, run in runs.items()
        if not isinstance(run, dict)
    ]
    return problems or [line for name in runs for line in _problems_of_beginning(runs, name)]


def _problems_of_search(searches: Mapping[Any, Any], runs: Any) -> list[str]:
    """Return what is wrong by itself; what the run's method says of its params is in tune/checks.py."""
    known, problems = list(runs) if isinstance(runs, dict) else [], list[str]()
    for name, raw in searches.items():
        prefix = f"search.{name}."
        if name not in known:
            problems.append(f"search.{name}: there is no such run. {nearest(str(name), map(str, known))}")
        elif not isinstance(raw, dict):
            problems.append(f"search.{name}: expected a mapping of settings, got {shown(raw)}.")
        elif found := [*unknown(raw, field_names(Search), prefix), *misfits(Search, raw, prefix)]:
            problems += found
        else:
            problems += read_space(raw["space"], f"{prefix}space.")[1]
            problems += [
                f"{prefix}space.{key}: cannot be searched for; each trial is a run with that of runs.{name}."
                for key in raw["space"]
                if key in FIXED
            ]
    return problems


def _misnamed(runs: Mapping[Any, Any]) -> list[str]:
    """Return what is wrong with names: each is a key in DVC and YAML, a folder, a word of a command."""
    problems, folders = list[str](), dict[str, str]()
    for name in runs:
        if not isinstance(name, str) or not RUN_NAME.fullmatch(name) or yaml.safe_load(name) != name:
            problems.append(
                f"runs.{shown(name) if not isinstance(name, str) else name}: this cannot be a run's name: a letter or "
                "'_', then letters, digits, '_' or '-', 100 at most, and no word that YAML reads as something else "
                "(true, no, null). A dot, for example, would end the key for DVC."
            )
        elif folders.setdefault(name.lower(), name) != name:
            problems.append(
                f"runs.{name}: differs from '{folders[name.lower()]}' in case alone, and on some file systems both "
                "would be one folder. Give one of them another name."
            )
    return problems


def _problems_of_beginning(runs: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """DVC makes what a run begins from a dependency, so every run must say it, and none may begin from itself."""
    known, run, chain = [SCRATCH, *(f"runs/{other}" for other in runs)], name, [name]
    while (beginning := runs[run].get("init_from")) != SCRATCH:
        if beginning not in known:
            said = f", not {shown(beginning)}. {nearest(str(beginning), known)}" if beginning else "."
            wrong = f"runs.{run}.init_from: say where its weights begin: {SCRATCH}, or runs/<run>{said}"
            return [wrong] if run == name else []  # else it is said of that run
        run = str(beginning).removeprefix("runs/")
        if run in chain:  # said of the first run of the circle alone
            first = run == name and name == min(chain, key=list(runs).index)
            return [f"runs.{name}.init_from: {' begins from '.join([*chain, run])}: name another run."] * first
        chain.append(run)
    if runs[name].get("init_from") != SCRATCH and runs[name].get("weights"):
        return [f"runs.{name}.weights: the run begins from {runs[name]['init_from']}; leave one out."]
    return []


def is_in_mlflow(weights: str) -> bool:
    """Tell whether weights are named by an address of MLflow, a model's or a run's, rather than a path."""
    return weights.startswith(("models:/", "runs:/"))


def read_run(params: Params, name: str, path: Path = PARAMS) -> tuple[Run, dict[str, Any]]:
    """Return the settings that every run has, and the rest, which belongs to its method.

    Args:
        params: of params.yaml.
        name: the run's.
        path: of the file, for messages.

    Returns:
        The run's settings, and its method's own by name.

    Raises:
        UserError: there is no such run, or a value does not fit.
    """
    if name not in params.runs:
        raise UserError(f"{path}: runs: there is no run '{name}'. {nearest(name, params.runs)}")
    return general_settings(params.runs[name], f"runs.{name}.", path)


def general_settings(raw: Mapping[str, Any], prefix: str, path: Path = PARAMS) -> tuple[Run, dict[str, Any]]:
    """Return the settings that every run has, and the rest, which belongs to its method.

    Args:
        raw: the run as it stands in the file.
        prefix: of its keys, such as "runs.dcgan.".
        path: of the file, for messages.

    Returns:
        The run's settings, and its method's own by name.

    Raises:
        UserError: a value does not fit.
    """
    own = field_names(Run)
    if not isinstance(raw.get("method"), str):
        raise UserError(f"{path}: {prefix}method: name the method, for example 'dcgan'.")
    if {"seed", "seeds"} <= raw.keys():
        raise UserError(f"{path}: {prefix}seeds: stands beside seed; leave one of them.")
    if raw.get("seeds") == []:
        raise UserError(f"{path}: {prefix}seeds: name at least one, such as [0, 1, 2], or give seed instead.")
    run = checked(Run, {key: value for key, value in raw.items() if key in own}, path, prefix)
    return run, {key: value for key, value in raw.items() if key not in own}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Run the command in the project's folder.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as 'data:' and 'runs:', got {raw!r}.")
    return raw
