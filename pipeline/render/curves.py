"""Losses and gradient norms against images seen: one small plot per series, all on one time axis."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
LINE = "#3b82c4"


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a figure. paper None: transparent."""

    ink: str
    faint: str
    paper: str | None


LIGHT = Theme(ink="#30363d", faint="#d8dde3", paper="#ffffff")
ON_LIGHT = Theme(ink="#30363d", faint="#d8dde3", paper=None)
ON_DARK = Theme(ink="#c3cad3", faint="#3a414a", paper=None)

Series = Mapping[str, Sequence[tuple[int, float]]]


def read_history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a run's history.

    Args:
        path: of history.csv.

    Returns:
        (images seen, value) points per column; empty cells are left out.

    Raises:
        UserError: the file is missing or damaged.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                seen = int(row.pop("seen"))
                for name, cell in row.items():
                    series.setdefault(name, []).extend([(seen, float(cell))] if cell else [])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable history ({error!r}). Run `dvc repro` to train the run again.") from error
    return {name: points for name, points in series.items() if points}


def draw(series: Series, theme: Theme = LIGHT) -> "Figure":
    """Draw small multiples, three to a row, in the order of the series; without points, a figure that says so."""
    from matplotlib.figure import Figure

    rows = max(1, math.ceil(len(series) / COLUMNS))
    figure = Figure(figsize=(9.6, 2.1 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flatten()
    for ax, (name, points) in zip(axes, series.items(), strict=False):
        _plot(ax, name, points, theme)
    for ax in axes[len(series) :]:
        ax.axis("off")
    if not series:
        axes[0].text(0, 0.5, "no points were recorded", color=theme.ink)
    # the lowest plot of each column carries the axis, also where the last row is not full
    for ax in axes[max(0, len(series) - COLUMNS) : len(series)]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("images seen", color=theme.ink, fontsize=9)
    return figure


def _plot(ax: "Axes", name: str, points: Sequence[tuple[int, float]], theme: Theme) -> None:
    from matplotlib.ticker import EngFormatter

    seen, values = zip(*points, strict=True)
    ax.plot(seen, values, color=LINE, linewidth=1.3, marker="o" if len(points) == 1 else None)
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 100 * min(finite):
        ax.set_yscale("log")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(True, color=theme.faint, linewidth=0.5)
    plain_axes(ax, name, theme)
    ax.tick_params(which="both", labelbottom=False)


def plain_axes(ax: "Axes", title: str, theme: Theme) -> None:
    """Give a plot a title and the theme's colours, and take away what frames it."""
    ax.set_title(title, fontsize=9, color=theme.ink, loc="left")
    ax.set_facecolor("none")
    ax.tick_params(labelsize=8, color=theme.faint, labelcolor=theme.ink, which="both")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
