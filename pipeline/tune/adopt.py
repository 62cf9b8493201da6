"""The values of a search's best trial, written into params.yaml in the place of the run's own.

The text is changed only where a value stands, so that comments, order and form stay: PyYAML says where each value
begins and ends.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.config import PARAMS
from pipeline.config.search import as_number
from pipeline.errors import UserError
from pipeline.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trial of best.yaml.

    Attributes:
        trial: its number.
        params: that were searched for.
        values: of the objectives, by name with protocol.
        images: that it was trained on.
        schedule: which params it had from where on, if they changed on the way (population-based training).
        population: whether it was one of a population, whose trainings are no runs'.
    """

    trial: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    images: int
    schedule: Sequence[Mapping[str, Any]] = ()
    population: bool = False

    def what_comes(self, run: str) -> str:
        """Say what the next `dvc repro` makes of the adopted values.

        Args:
            run: its name.

        Returns:
            A sentence or more.
        """
        if not self.population:
            return "`dvc repro` publishes its training."
        own = f"Its own weights are out/tune/{run}/weights/trial-{self.trial}.safetensors: `genloom sample` takes them."
        if not self.schedule:
            return f"Its params never changed: `dvc repro` trains with them, from the start. {own}"
        way = "; ".join(
            f"from {step['images']:,} images {', '.join(f'{name} {value}' for name, value in step['params'].items())}"
            for step in self.schedule
        )
        return (
            f"It came to them on a way that no run can take, whose params are constant ({way}). So `dvc repro` trains "
            f"anew, with its last params from the start, and may find less. {own}"
        )


def read_best(path: Path, trial: int | None = None) -> Found:
    """Return a trial of best.yaml.

    Args:
        path: of the file.
        trial: which; None: the first, which is the best by the first objective.

    Returns:
        The trial.

    Raises:
        UserError: there is no such file, no trial is finished, or that one is not among the best.
    """
    known = {found.trial: found for found in _all_best(path)}
    if trial is not None and trial not in known:
        raise UserError(f"{path}: trial {trial} is not among the best: {', '.join(map(str, known))}.")
    return known[next(iter(known)) if trial is None else trial]


def _all_best(path: Path) -> list[Found]:
    """Return the trials of best.yaml, the first of which is the best by the first objective; never none."""
    run = path.parent.name
    try:
        content = yaml.safe_load(path.read_text())
        best, population = content["best"], content.get("scheduler") == "pbt"
        found = [
            Found(
                **{key: one[key] for key in ("trial", "params", "values", "images")},
                schedule=one.get("schedule", ()),
                population=population,
            )
            for one in best
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `make tune RUN={run}` to make it.") from None
    if not found:
        raise UserError(
            f"{path}: no trial of this search is finished. Raise its budget, and run `make tune RUN={run}`."
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What out/report.html says of a run's search.

    Attributes:
        run: its name.
        page: the search's own, from out/report.html.
        said: its best, and whether params.yaml has that.
    """

    run: str
    page: str
    said: str


def searches(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> list[Searched]:
    """Return what searches have left for the runs of params.yaml.

    Args:
        folder: of all searches' results, beside the report.
        runs: as they stand in the file.

    Returns:
        An entry for each run that has a page of a search, in the file's order.
    """
    found = []
    for run, raw in runs.items():
        page = folder / run / "report.html"
        if page.is_file():
            try:
                best = _all_best(folder / run / "best.yaml")
                taken = next((trial for trial in best if _has(raw, trial.params)), None)
                shown = taken or best[0]
                values = ", ".join(f"{name} {value:.5g}" for name, value in shown.values.items())
                adopted = "adopted" if taken else f"not adopted: `genloom adopt {run}` takes it"
                said = f"trial {shown.trial}, {values}; {adopted}"
            except UserError as error:
                said = str(error)
            found.append(Searched(run=run, page=f"{folder.name}/{run}/{page.name}", said=said))
    return found


def _has(raw: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether a run names all values."""
    return all(name in raw and as_number(raw[name]) == value for name, value in values.items())


def with_values(text: str, run: str, values: Mapping[str, Any], path: Path = PARAMS) -> str:
    """Return the text of a params file with other values of a run, and nothing else changed.

    Args:
        text: of the file.
        run: its name.
        values: by param; those that the run does not name are added at its end.
        path: of the file, for the message.

    Returns:
        The new text.

    Raises:
        UserError: the file has no such run.
    """
    node = _entry(_entry(yaml.compose(text), "runs"), run)
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: runs: there is no run '{run}'.")
    changes: list[tuple[int, int, str]] = []
    added = []
    for name, value in values.items():
        found = _entry(node, name)
        if found is None:
            added.append(f"{name}: {as_yaml(value)}")
        else:
            begin, end = found.start_mark.index, found.end_mark.index
            end = begin + len(text[begin:end].rstrip())
            changes.append((begin, end, as_yaml(value)))
    if added:
        changes.append(_insertion(text, node, added))
    for begin, end, new in sorted(changes, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def _entry(node: yaml.Node | None, name: str) -> yaml.Node | None:
    """Return the value of a key of a mapping; None if there is none."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _insertion(text: str, node: yaml.MappingNode, added: list[str]) -> tuple[int, int, str]:
    """Return where and how lines are added to a mapping: after its last value, whose comment stays where it is."""
    last, first = node.value[-1][1], node.value[0][0]
    begin = last.start_mark.index
    end = begin + len(text[begin : last.end_mark.index].rstrip())
    if node.flow_style:
        return end, end, "".join(f", {line}" for line in added)
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    indent = " " * first.start_mark.column
    return line_end, line_end, "".join(f"\n{indent}{line}" for line in added)


def as_yaml(value: Any) -> str:
    """Return a value as a person writes it, such that YAML 1.1 and 1.2 read the same: 0.00001, not 1e-05."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float):
        return np.format_float_positional(value, trim="0")
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def adopt(run: str, values: Mapping[str, Any], path: Path = PARAMS) -> str:
    """Write values of a run into the params file.

    Args:
        run: its name.
        values: by param.
        path: of the file.

    Returns:
        What was changed, as a unified diff; "" if the file has these values already.

    Raises:
        UserError: the file has no such run.
    """
    before = path.read_text()
    after = with_values(before, run, values, path)
    if after != before:
        with atomic_file(path) as temporary:
            temporary.write_text(after)
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, str(path), str(path), n=1))
