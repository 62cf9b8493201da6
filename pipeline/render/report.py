"""out/report.html and out/leaderboard.csv: the runs side by side, from the files in their folders alone."""

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
MLFLOW_URL = "http://127.0.0.1:5000"
UNKNOWN = "\N{EN DASH}"
KINDS = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}
COST = ("seconds", "images_per_second", "peak_memory_bytes", "parameters")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """What a run left in out/runs/<name>; a run that is not yet evaluated has no metrics."""

    name: str
    folder: Path
    train: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    mlflow: Mapping[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> float | None:
        """None where it was not measured or is not a number."""
        value = self.metrics.get(name)
        return None if value is None or not math.isfinite(value) else float(value)

    @property
    def parameters(self) -> int:
        """Over all nets."""
        return sum(self.train.get("parameters", {}).values())


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all runs share: the dataset's spec.json, the references' <extractor>.json by extractor, a picture."""

    data: Mapping[str, Any]
    references: Mapping[str, Mapping[str, Any]]
    real: Path


def load_runs(folder: Path, names: Sequence[str]) -> list[RunFolder]:
    """The runs of those names that are trained."""
    return [_load_run(folder / name) for name in names if (folder / name / "train.json").is_file()]


def read_context(out: Path, extractors: Sequence[str]) -> Context:
    """From out/data and out/reference; what is missing there is left out."""
    references = {name: _read_json(out / "reference" / f"{name}.json") for name in extractors}
    return Context(
        data=_read_json(out / "data" / "spec.json"),
        references={name: about for name, about in references.items() if about},
        real=out / "reference" / "real.png",
    )


def ranked(runs: Sequence[RunFolder], headline: str) -> list[RunFolder]:
    """The lowest headline metric first, runs without it last, by name."""

    def place(run: RunFolder) -> tuple[bool, float, str]:
        value = run.metric(headline)
        return value is None, value or 0.0, run.name

    return sorted(runs, key=place)


def metric_names(runs: Sequence[RunFolder]) -> list[str]:
    """FIDs first, then Inception Scores, then the methods' own; spreads stay beside their means."""
    found = {name for run in runs for name in run.metrics}
    return sorted(found, key=lambda name: (not name.startswith("fid_"), not name.startswith("is_"), name))


def write_leaderboard(path: Path, runs: Sequence[RunFolder]) -> None:
    """One row per run in the given order: run, method, images seen, every metric, cost. Unknown cells are empty."""
    metrics = metric_names(runs)
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "method", "seen", *metrics, *COST])
        for run in runs:
            values = [run.metric(name) for name in metrics]
            cost = [run.parameters if name == "parameters" else run.train.get(name) for name in COST]
            writer.writerow([run.name, run.train.get("method"), run.train.get("seen"), *values, *cost])


def write_page(path: Path, runs: Sequence[RunFolder], context: Context, headline: str) -> None:
    """One HTML file that needs no other file and no network."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "duration": _duration, "bytes": _bytes, "title": _title}
    page = environment.get_template(TEMPLATE).render(
        data=context.data,
        references=context.references,
        real=data_uri(context.real) if context.real.is_file() else None,
        headline=headline,
        columns=[name for name in metric_names(runs) if not name.endswith("_std")],
        best=_best(runs),
        worst=max((run.metric(headline) or 0.0 for run in runs), default=0.0),
        runs=[_view(run) for run in runs],
        params=_params(runs),
        protocols=_protocols(runs),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page)


def data_uri(path: Path) -> str:
    """The file's content as a URI that a page can hold."""
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _load_run(folder: Path) -> RunFolder:
    files = {name: _read_json(folder / f"{name}.json") for name in ("train", "metrics", "protocol", "mlflow")}
    return RunFolder(name=folder.name, folder=folder, **files)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run `dvc repro`.") from error
    return content


def _view(run: RunFolder) -> dict[str, Any]:
    """A run as the template shows it."""
    panels = sorted(file for file in (run.folder / "panels").glob("*.png") if file.stem != "curves")
    run_id = run.mlflow.get("run_id")
    return {
        "name": run.name,
        "train": run.train,
        "parameters": run.parameters,
        "metric": run.metric,
        "samples": _optional_uri(run.folder / "samples.png"),
        "film": _optional_uri(run.folder / "panels" / "film.webp"),
        "last_frame": _last_frame(run.folder / "snapshots"),
        "curves": _curves(run.folder / "history.csv"),
        "panels": {file.stem: {"uri": data_uri(file), "wide": _is_wide(file)} for file in panels},
        "mlflow": {"id": run_id, "url": f"{MLFLOW_URL}/#/runs/{run_id}"} if run_id else None,
        "key": run.train.get("key"),
    }


def _optional_uri(path: Path) -> str | None:
    return data_uri(path) if path.is_file() else None


def _is_wide(picture: Path) -> bool:
    """Whether half of the page is too narrow for it."""
    with Image.open(picture) as opened:
        return opened.width > 2 * opened.height


def _last_frame(folder: Path) -> str | None:
    """For readers who ask for less motion."""
    snapshots = sorted(folder.glob("*.png"), key=lambda file: int(file.stem))
    return data_uri(snapshots[-1]) if snapshots else None


def _curves(history: Path) -> dict[str, str] | None:
    """The same curves in ink for a light and for a dark page."""
    if not history.is_file():
        return None
    series = read_history(history)
    return {"light": _drawn(series, ON_LIGHT), "dark": _drawn(series, ON_DARK)}


def _drawn(series: Mapping[str, Any], theme: Theme) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.svg"
        write_curves(series, path, theme)
        return data_uri(path)


def _best(runs: Sequence[RunFolder]) -> dict[str, float]:
    """FID: the lowest; IS: the highest; which way is better in a method's own scores is not known here."""
    found = {name: [value for run in runs if (value := run.metric(name)) is not None] for name in metric_names(runs)}
    lowest = {name: min(values) for name, values in found.items() if values and name.startswith("fid_")}
    highest = {name: max(values) for name, values in found.items() if values and name.startswith("is_")}
    return lowest | highest if len(runs) > 1 else {}


def _params(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One row per param: its value in every run, as JSON spells it; differs: among the runs that have it;
    shared: all have it, and alike."""
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
    """Each distinct protocol once, with the metrics made by it; images_seen is the run's, not the protocol's."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, protocol in run.protocol.items():
            flat = _flat(protocol)
            flat = {key: value for key, value in flat.items() if "images_seen" not in key}
            entry = found.setdefault(json.dumps(flat, sort_keys=True), {"metrics": {}, "values": flat})
            entry["metrics"][name] = True
    return list(found.values())


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _number(value: float | None) -> str:
    """Four significant digits without an exponent where that can be read; an en dash for what is unknown."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}" if size >= 0.01 else f"{value:.3g}"


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


def _title(name: str) -> str:
    """A metric's or panel's key in words: fid_efficientnet_lite0 -> FID efficientnet_lite0."""
    for short in ("fid", "is"):
        if name.startswith(f"{short}_"):
            return f"{short.upper()} {name.removeprefix(f'{short}_')}"
    return name.replace("_", " ")
