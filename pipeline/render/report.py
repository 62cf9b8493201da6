"""out/report.html: the runs side by side, with their pictures, as one page that needs no other file.

Only its explorer does: the scripts of the folder explorer beside it, which explorer.py writes.
"""

import base64
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from pipeline.files import atomic_file, atomic_folder
from pipeline.inference.scored import BY_SEED, VALUE, WEIGHTS
from pipeline.render.board import Board, Column, Measured, RunFolder
from pipeline.render.curves import ON_DARK, ON_LIGHT, Theme, draw, read_history
from pipeline.render.drawn import write_figure
from pipeline.render.explorer import read_explored
from pipeline.render.shown import Shown, read_list
from pipeline.render.template import environment
from pipeline.render.tradeoff import draw_tradeoff, tradeoffs, write_tradeoff

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE, STYLE = "report.html", "report.css"
SCRIPTS = {
    "early": ("theme.js",),
    "late": ("leaderboard.js", "comparison.js", "explorer.js"),
}  # before the body, after it
UNKNOWN = "\N{EN DASH}"
WIDE = 3  # times as wide as high
REAL = "real images"
COSTS = ("parameters", "images seen", "training time", "images/s", "peak memory")
KINDS = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}
OF_RUN = ("images_seen", "redrawn", WEIGHTS)  # endings of what protocol.json says of a run alone
# What tells a metric's entries of protocol.json apart, and not how its number was made.
DESCRIPTION = ("metric", "title", "better", "spread", "interval", "note", BY_SEED)


class Search(Protocol):
    """What the page says of a run's search: its page, from this one, and a sentence."""

    @property
    def run(self) -> str: ...
    @property
    def page(self) -> str: ...
    @property
    def said(self) -> str: ...


def write_page(
    path: Path, board: Board, links: Mapping[str, str] | None = None, searches: Sequence[Search] = ()
) -> None:
    """Write one HTML file that needs no other file and no network.

    Args:
        path: of the file.
        board: what it shows.
        links: addresses of MLflow's pages by their titles, where there are any.
        searches: of these runs' params, as far as their pages are there.
    """
    pages = environment(Path(__file__).parent)
    pages.filters |= {"number": _number, "spread": _spread, "duration": _duration, "bytes": _bytes}
    notes, here = _notes(board), Path(__file__).parent
    scripts = {place: "".join((here / name).read_text() for name in names) for place, names in SCRIPTS.items()}
    runs = [_view(run, board) for run in board.runs]
    page = pages.get_template(TEMPLATE).render(
        data=board.data,
        inspected=board.inspected,
        picture=_optional_uri(board.picture),
        links=links or {},
        searches=searches,
        headline=board.headline,
        columns=board.columns,
        runs=runs,
        untrained=board.untrained,
        count=len(board.runs) + len(board.untrained),
        problems=board.problems,
        lacking=_lacking(board),
        real=[_real_cell(column, board.real, notes) for column in board.columns] if board.real.metrics else None,
        notes=list(dict.fromkeys(notes.values())),
        params=_params(board.runs),
        protocols=_protocols(board.runs),
        provenance=_provenance(board),
        tradeoffs={extractor: _twice(draw_tradeoff, points) for extractor, points in tradeoffs(board).items()},
        explorable=[run["name"] for run in runs if "refused" not in run["explorer"]],
        comparison=_comparison(runs, board),
        style=(here / STYLE).read_text(),
        scripts=scripts,
        policy=_policy(scripts.values()),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page)


def write_pictures(folder: Path, board: Board) -> None:
    """Write the runs' pictures as <picture>/<run>.png, as far as they are drawn, and those over all runs."""
    with atomic_folder(folder) as temporary:
        for run in board.runs:
            drawn = [(picture.name, path) for picture, path in _pictures(run) if picture.kind != "film"]
            for name, path in [("samples", run.folder / "samples.png"), *drawn]:
                if path.is_file():
                    (temporary / name).mkdir(exist_ok=True)
                    shutil.copyfile(path, temporary / name / f"{run.name}.png")
        for extractor, points in tradeoffs(board).items():
            write_tradeoff(points, temporary / "precision_recall" / f"{extractor}.png")


def data_uri(path: Path) -> str:
    """Return the file's content as a URI that a page can hold."""
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _view(run: RunFolder, board: Board) -> dict[str, Any]:
    """Return a run as the template shows it."""
    return {
        "name": run.name,
        "train": run.train,
        "parameters": run.parameters,
        "headline": run.metric(board.headline.key) if board.headline else None,
        "rank": board.rank(run),
        "cells": [_cell(run, column, board) for column in board.columns],
        "samples": _optional_uri(run.folder / "samples.png"),
        "pictures": [_shown(picture, path) for picture, path in _pictures(run)],
        "last_frame": _last_frame(run.folder / "snapshots"),
        "curves": _curves(run.folder / "history.csv"),
        "key": run.train.get("key"),
        "troubles": run.troubles,
        "costs": _costs(run),
        "explorer": read_explored(run.folder),
        "warnings": _warnings(run),
        "seeds": [trained["params"]["seed"] for trained in run.trainings] if run.others else [],
    }


def _warnings(run: RunFolder) -> list[str]:
    """Return the early warnings of a run's trainings, and on which of them one stopped."""
    found = []
    for train in run.trainings:
        stopped, of = train.get("stopped"), f" of seed {train['params']['seed']}" if run.others else ""
        ended = f" It stopped there, at {stopped['said']:,} images." if stopped else ""
        for warning in train.get("warnings", ()):
            found.append(f"Early warning{of}: {warning['message']}{ended if warning == stopped else ''}")
    return found


def _costs(run: RunFolder) -> list[dict[str, Any]]:
    """Return what the training took, as numbers to sort by and as text."""
    shown = {"seen": _number, "seconds": _duration, "images_per_second": _number, "peak_memory_bytes": _bytes}
    found = [{"value": run.parameters, "text": _number(run.parameters)}]
    return found + [{"value": run.cost(key), "text": show(_whole(run.cost(key)))} for key, show in shown.items()]


def _policy(scripts: Iterable[str]) -> str:
    """Return which scripts may run: the page's own, by hash, and the explorer's files beside it."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return " ".join([*(f"'sha256-{value}'" for value in hashes), "'self' file: 'wasm-unsafe-eval'"])


def _how_id(name: str, key: str) -> str:
    """Return the id of the place that says how a number of a run, or of REAL, was made."""
    return f"how-real-{key}" if name == REAL else f"how-run-{name}-{key}"


def _provenance(board: Board) -> list[dict[str, Any]]:
    """Return how each number was made: its exact value, and its entry of protocol.json."""
    found = []
    for name, measured in (*((run.name, run) for run in board.runs), (REAL, board.real)):
        for column in board.columns:
            value = measured.metric(column.key)
            if value is None:
                continue
            how = measured.protocol.get(column.key, {})
            by_seed = {f"seed {seed}": one.get(VALUE, UNKNOWN) for seed, one in how.get(BY_SEED, {}).items()}
            flat = by_seed | _flatten({key: value for key, value in how.items() if key != BY_SEED})
            spread = measured.metric(column.spread)
            values = {"value": value} | ({"spread": spread} if spread is not None else {})
            values |= {key: text for key, text in flat.items() if key not in ("title", "note", "spread")}
            found.append(
                {
                    "id": _how_id(name, column.key),
                    "title": f"{column.name} of {name}",
                    "what": f"{column.note}." if column.note else "",
                    "values": values,
                }
            )
    return found


def _comparison(runs: Sequence[Mapping[str, Any]], board: Board) -> str:
    """Return what is compared of two runs, as JSON that can stand inside of a page."""
    params: dict[str, dict[str, str | None]] = {run["name"]: {} for run in runs}
    for row in _params(board.runs):
        for run, cell in zip(board.runs, row["cells"], strict=True):
            params[run.name][row["name"]] = cell
    numbers = [column.name for column in board.columns]
    content = [
        {
            "name": run["name"],
            "numbers": dict(
                zip([*numbers, *COSTS], [*map(_text, run["cells"]), *(c["text"] for c in run["costs"])], strict=True)
            ),
            "params": params[run["name"]],
        }
        for run in runs
    ]
    return json.dumps(content).replace("<", "\\u003c")


def _text(cell: Mapping[str, Any]) -> str:
    margin = "" if cell["margin"] is None else f" ± {_spread(cell['margin'])}"
    return _number(cell["value"]) + margin


def _cell(run: RunFolder, column: Column, board: Board) -> dict[str, Any]:
    """Return a number as the table shows it.

    margin: half of its interval; best: no run's is better by more than chance; share: its length as a bar, in percent
    of the largest.
    """
    value, runs = run.metric(column.key), board.runs
    values = [known for other in runs if (known := other.metric(column.key)) is not None]
    largest = max(values, default=0.0)
    beaten = any(board.is_better(other, run, column) for other in runs)
    return {
        "value": value,
        "how": _how_id(run.name, column.key),
        "note": None,
        "margin": run.margin(column.key),
        "best": len(runs) > 1 and value is not None and column.better is not None and not beaten,
        "share": max(0.0, 100 * value / largest) if value is not None and largest > 0 else None,
    }


def _real_cell(column: Column, real: Measured, notes: Mapping[str, str]) -> dict[str, Any]:
    distinct, note = list(dict.fromkeys(notes.values())), notes.get(column.key)
    number = distinct.index(note) + 1 if note else None
    value, margin = real.metric(column.key), real.margin(column.key)
    return {"value": value, "margin": margin, "note": number, "how": _how_id(REAL, column.key)}


def _notes(board: Board) -> dict[str, str]:
    """Say for each number of the real images how many were scored, and how many samples the runs have."""
    notes = {}
    for column in board.columns:
        how = board.real.protocol.get(column.key)
        if how is None or column.key not in board.real.metrics:
            continue
        count, others = how["real"]["count"], how.get("reference", {}).get("count")
        against = f" against {others:,} others" if others else ""
        made = {run.protocol[column.key]["generated"]["count"] for run in board.runs if column.key in run.metrics}
        of_runs = " or ".join(f"{samples:,}" for samples in sorted(made))
        runs = "" if made <= {count} else f"; the runs are scored on {of_runs} samples"
        notes[column.key] = f"{count:,} real images{against}{runs}"
    return notes


def _lacking(board: Board) -> list[str]:
    """Say which numbers could not be computed of so few images, and of which runs."""
    found: dict[str, list[str]] = {}
    for name, measured in (*((run.name, run) for run in board.runs), ("real images", board.real)):
        for reason, titles in measured.missing("lacks").items():
            found.setdefault(f"{', '.join(titles)}: {reason}", []).append(name)
    return [f"{', '.join(names)}: no {what}" for what, names in found.items()]


def _optional_uri(path: Path) -> str | None:
    return data_uri(path) if path.is_file() else None


def _pictures(run: RunFolder) -> list[tuple[Shown, Path]]:
    """Return a run's pictures, and its comparisons if it is evaluated, with their files."""
    folders = [run.folder / name for name in (("panels", "comparisons") if run.metrics else ("panels",))]
    return [(picture, folder / picture.file) for folder in folders for picture in read_list(folder)]


def _shown(picture: Shown, path: Path) -> dict[str, Any]:
    """Return a picture as the template shows it; wide: half of the page is too narrow for it."""
    with Image.open(path) as opened:
        wide = opened.width > WIDE * opened.height
    return asdict(picture) | {"name": picture.name, "uri": data_uri(path), "wide": wide}


def _last_frame(folder: Path) -> str | None:
    """Return the last snapshot, for readers who ask for less motion."""
    snapshots = sorted(folder.glob("*.png"), key=lambda file: int(file.stem))
    return data_uri(snapshots[-1]) if snapshots else None


def _curves(history: Path) -> dict[str, str] | None:
    return _twice(draw, read_history(history)) if history.is_file() else None


def _twice(draw_it: Callable[[Any, Theme], "Figure"], of: Any) -> dict[str, str]:
    """Draw a figure once, and have it in ink for a light and for a dark page: the text of an SVG names its colours."""
    with tempfile.TemporaryDirectory() as folder:
        light, dark = (Path(folder) / f"{name}.svg" for name in ("light", "dark"))
        write_figure(draw_it(of, ON_LIGHT), light)
        text = light.read_text()
        for old, new in ((ON_LIGHT.ink, ON_DARK.ink), (ON_LIGHT.faint, ON_DARK.faint)):
            text = text.replace(old, new)
        dark.write_text(text)
        return {"light": data_uri(light), "dark": data_uri(dark)}


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
    """Return each distinct protocol once, with the metrics made by it.

    Images seen and samples drawn anew are the run's, not the protocol's.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, protocol in run.protocol.items():
            if name not in run.metrics:
                continue
            flat = _flatten({key: value for key, value in protocol.items() if key not in DESCRIPTION})
            flat = {key: value for key, value in flat.items() if not key.endswith(OF_RUN)}
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
    value = float(f"{value:.1e}")
    if value < 0.001:
        return f"{value:.1e}" if value else "0"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _whole(value: float | None) -> float | None:
    """Return a mean of whole numbers that is one as such, so that it is shown as one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
