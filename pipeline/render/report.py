"""out/report.html and out/leaderboard.csv: the runs side by side, from the files in their folders alone.

Titles, directions and spreads come from protocol.json, where each metric has put its own.
"""

import base64
import csv
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.render.curves import ON_DARK, ON_LIGHT, Theme, read_history, write_curves

TEMPLATE = "report.html"
UNKNOWN = "\N{EN DASH}"
KINDS = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}
COST = ("seconds", "images_per_second", "peak_memory_bytes", "parameters")
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}", None: ""}
# What tells a metric's entries of protocol.json apart, and not how its number was made.
DESCRIPTION = ("metric", "title", "better", "spread")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What metrics said of a run or of real images: numbers and, by the same keys, how each was made."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def metric(self, key: str | None) -> float | None:
        """Return a number; None where it was not measured or is not finite."""
        value = self.metrics.get(key) if key else None
        return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True, kw_only=True)
class RunFolder(Measured):
    """What a run left in out/runs/<name>; a run that is not yet evaluated has no metrics."""

    name: str
    folder: Path
    train: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Count the parameters over all nets."""
        return sum(self.train.get("parameters", {}).values())


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the table. of: the extractor, or the split; better: "lower", "higher" or None; spread: its key."""

    key: str
    title: str
    of: str
    better: str | None
    spread: str | None

    @property
    def name(self) -> str:
        """Return the title with what it is of, for running text."""
        return f"{self.title} {self.of}".strip()

    @property
    def arrow(self) -> str:
        """Return the sign of the better direction."""
        return ARROWS[self.better]

    def best(self, values: Sequence[float]) -> float | None:
        """Return the best of several values; None where neither direction is better."""
        if not values or self.better is None:
            return None
        return min(values) if self.better == "lower" else max(values)


@dataclass(frozen=True, kw_only=True)
class Board:
    """All that the page and the table show: the runs, best first, and what they share.

    columns: the first one ranks. real: real images' scores; picture: some of them; data: the dataset's spec.json.
    """

    runs: Sequence[RunFolder]
    columns: Sequence[Column]
    real: Measured
    picture: Path
    data: Mapping[str, Any]

    @property
    def headline(self) -> Column | None:
        """Return the column that ranks the runs; None before any is evaluated."""
        return self.columns[0] if self.columns else None


def read_board(out: Path, names: Sequence[str], metrics: Sequence[str], extractors: Sequence[str]) -> Board:
    """Read the runs of those names that are trained, and what they share; what else is missing is left out.

    Args:
        out: with the folders data, reference, real and runs.
        names: of runs.
        metrics: their order is the columns'; others, such as methods' own scores, come after them.
        extractors: the same, within a metric.

    Returns:
        The runs by the first column, best first; those without it last, by name.

    Raises:
        UserError: a file is damaged.
    """
    folders = [out / "runs" / name for name in names if (out / "runs" / name / "train.json").is_file()]
    runs = [_read_run(folder) for folder in folders]
    columns = _columns(runs, metrics, extractors)
    return Board(
        runs=_ranked(runs, columns[0] if columns else None),
        columns=columns,
        real=_read_measured(out / "real"),
        picture=out / "reference" / "real.png",
        data=_read_json(out / "data" / "spec.json"),
    )


def write_leaderboard(path: Path, board: Board) -> None:
    """Write one row per run: run, method, images seen, every metric and its spread, cost; unknown cells are empty."""
    keys = [key for column in board.columns for key in (column.key, column.spread) if key]
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "method", "seen", *keys, *COST])
        for run in board.runs:
            values = [run.metric(key) for key in keys]
            cost = [run.parameters if name == "parameters" else run.train.get(name) for name in COST]
            writer.writerow([run.name, run.train.get("method"), run.train.get("seen"), *values, *cost])


def write_page(path: Path, board: Board) -> None:
    """Write one HTML file that needs no other file and no network."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "spread": _spread, "duration": _duration, "bytes": _bytes}
    notes = _notes(board)
    page = environment.get_template(TEMPLATE).render(
        data=board.data,
        picture=_optional_uri(board.picture),
        headline=board.headline,
        columns=board.columns,
        runs=[_view(run, board) for run in board.runs],
        real=[_real_cell(column, board.real, notes) for column in board.columns] if board.real.metrics else None,
        notes=list(dict.fromkeys(notes.values())),
        params=_params(board.runs),
        protocols=_protocols(board.runs),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page)


def data_uri(path: Path) -> str:
    """Return the file's content as a URI that a page can hold."""
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _read_run(folder: Path) -> RunFolder:
    found = _read_measured(folder)
    train = _read_json(folder / "train.json")
    return RunFolder(name=folder.name, folder=folder, train=train, metrics=found.metrics, protocol=found.protocol)


def _read_measured(folder: Path) -> Measured:
    return Measured(metrics=_read_json(folder / "metrics.json"), protocol=_read_json(folder / "protocol.json"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run `dvc repro`.") from error
    return content


def _columns(runs: Sequence[Measured], metrics: Sequence[str], extractors: Sequence[str]) -> list[Column]:
    """Return one column per number that any run has; spreads stay with their means."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for key in run.metrics:
            found[key] = found.get(key) or run.protocol.get(key, {})

    def place(key: str) -> tuple[int, int, str]:
        how = found[key]
        return _index(metrics, how.get("metric")), _index(extractors, how.get("extractor")), key

    return [_column(key, found[key]) for key in sorted(found, key=place) if found[key].get("spread") != key]


def _index(names: Sequence[str], name: str | None) -> int:
    return names.index(name) if name in names else len(names)


def _column(key: str, how: Mapping[str, Any]) -> Column:
    of = how.get("extractor") or how.get("split") or ""
    return Column(key=key, title=how.get("title", key), of=of, better=how.get("better"), spread=how.get("spread"))


def _ranked(runs: Sequence[RunFolder], headline: Column | None) -> list[RunFolder]:
    sign = -1 if headline and headline.better == "higher" else 1

    def place(run: RunFolder) -> tuple[bool, float, str]:
        value = run.metric(headline.key) if headline else None
        return value is None, sign * (value or 0.0), run.name

    return sorted(runs, key=place)


def _view(run: RunFolder, board: Board) -> dict[str, Any]:
    """Return a run as the template shows it."""
    panels = sorted(file for file in (run.folder / "panels").glob("*.png") if file.stem != "curves")
    return {
        "name": run.name,
        "train": run.train,
        "parameters": run.parameters,
        "headline": run.metric(board.headline.key) if board.headline else None,
        "cells": [_cell(run, column, board.runs) for column in board.columns],
        "samples": _optional_uri(run.folder / "samples.png"),
        "film": _optional_uri(run.folder / "panels" / "film.webp"),
        "last_frame": _last_frame(run.folder / "snapshots"),
        "curves": _curves(run.folder / "history.csv"),
        "panels": {file.stem.replace("_", " "): {"uri": data_uri(file), "wide": _is_wide(file)} for file in panels},
        "key": run.train.get("key"),
    }


def _cell(run: RunFolder, column: Column, runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return a number as the table shows it; share: its length as a bar, in percent of the largest."""
    value = run.metric(column.key)
    values = [known for other in runs if (known := other.metric(column.key)) is not None]
    largest = max(values, default=0.0)
    return {
        "value": value,
        "spread": run.metric(column.spread),
        "best": len(runs) > 1 and value is not None and value == column.best(values),
        "share": max(0.0, 100 * value / largest) if value is not None and largest > 0 else None,
    }


def _real_cell(column: Column, real: Measured, notes: Mapping[str, str]) -> dict[str, Any]:
    distinct, note = list(dict.fromkeys(notes.values())), notes.get(column.key)
    number = distinct.index(note) + 1 if note else None
    return {"value": real.metric(column.key), "spread": real.metric(column.spread), "note": number}


def _notes(board: Board) -> dict[str, str]:
    """Say for each number of the real images how many were scored, and how many samples the runs have."""
    notes = {}
    for column in board.columns:
        how = board.real.protocol.get(column.key)
        if how is None:
            continue
        count, others = how["real"]["count"], how.get("reference", {}).get("count")
        against = f" against {others:,} others" if others else ""
        made = {run.protocol[column.key]["generated"]["count"] for run in board.runs if column.key in run.protocol}
        of_runs = " or ".join(f"{samples:,}" for samples in sorted(made))
        runs = "" if made <= {count} else f"; the runs are scored on {of_runs} samples"
        notes[column.key] = f"{count:,} real images{against}{runs}"
    return notes


def _optional_uri(path: Path) -> str | None:
    return data_uri(path) if path.is_file() else None


def _is_wide(picture: Path) -> bool:
    """Tell whether half of the page is too narrow for it."""
    with Image.open(picture) as opened:
        return opened.width > 2 * opened.height


def _last_frame(folder: Path) -> str | None:
    """Return the last snapshot, for readers who ask for less motion."""
    snapshots = sorted(folder.glob("*.png"), key=lambda file: int(file.stem))
    return data_uri(snapshots[-1]) if snapshots else None


def _curves(history: Path) -> dict[str, str] | None:
    """Draw the curves twice, in ink for a light and for a dark page."""
    if not history.is_file():
        return None
    series = read_history(history)
    return {"light": _draw(series, ON_LIGHT), "dark": _draw(series, ON_DARK)}


def _draw(series: Mapping[str, Any], theme: Theme) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.svg"
        write_curves(series, path, theme)
        return data_uri(path)


def _params(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return one row per param: its value in every run, as JSON spells it; differs: among the runs that have it;
    shared: all have it, with one value."""
    settings = [{"method": run.train.get("method")} | dict(run.train.get("params", {})) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = []
    for name in names:
        cells = [_plain(values[name]) if name in values else None for values in settings]
        differs = len(set(cells) - {None}) > 1
        rows.append({"name": name, "cells": cells, "differs": differs, "shared": not differs and None not in cells})
    return rows


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _protocols(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return each distinct protocol once, with the metrics made by it; images_seen is the run's, not the protocol's."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, protocol in run.protocol.items():
            flat = _flatten({key: value for key, value in protocol.items() if key not in DESCRIPTION})
            flat = {key: value for key, value in flat.items() if "images_seen" not in key}
            entry = found.setdefault(json.dumps(flat, sort_keys=True), {"metrics": {}, "values": flat})
            entry["metrics"][name] = True
    return list(found.values())


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flatten(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _number(value: float | None) -> str:
    """Format four significant digits, without an exponent if that is readable; an en dash for what is unknown."""
    if value is None:
        return UNKNOWN
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}" if size >= 0.01 else f"{value:.3g}"


def _spread(value: float) -> str:
    """Format two significant digits."""
    if value < 0.001:
        return f"{value:.1e}" if value else "0"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _bytes(count: float | None) -> str:
    return UNKNOWN if count is None else f"{count / 2**20:,.0f} MiB"
