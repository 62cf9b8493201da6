"""Precision against recall over all runs: what each gains in the one and pays in the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.render.board import Board, Measured
from pipeline.render.curves import LIGHT, LINE, Theme, plain_axes
from pipeline.render.drawn import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

X, Y = "recall", "precision"  # the keys of the metric precision_recall, before the extractor's name
NEAR = 0.5  # of the plane: labels to the right of it are written towards the left


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run, or the real images, in the plane. margin: half of the precision's interval, if it has one."""

    name: str
    recall: float
    precision: float
    margin: float | None
    real: bool


def tradeoffs(board: Board) -> dict[str, list[Point]]:
    """Return the points by extractor, the real images' last; {} where precision and recall are not measured."""
    extractors = [column.of for column in board.columns if column.key == f"{Y}_{column.of}"]
    everything = [*((run.name, run, False) for run in board.runs), ("real images", board.real, True)]
    found = {}
    for extractor in extractors:
        points = [_point(name, measured, extractor, real) for name, measured, real in everything]
        found[extractor] = [point for point in points if point]
    return found


def _point(name: str, measured: Measured, extractor: str, real: bool) -> Point | None:
    recall, precision = (measured.metric(f"{key}_{extractor}") for key in (X, Y))
    if recall is None or precision is None:
        return None
    margin = measured.margin(f"{Y}_{extractor}")
    return Point(name=name, recall=recall, precision=precision, margin=margin, real=real)


def draw_tradeoff(points: Sequence[Point], theme: Theme = LIGHT) -> "Figure":
    """Draw the points by their names in the unit square; the best corner is the upper right one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    ax = figure.subplots()
    for place, point in enumerate(sorted(points, key=lambda point: point.recall)):
        colour = theme.ink if point.real else LINE
        ax.errorbar(point.recall, point.precision, yerr=point.margin, fmt="*" if point.real else "o", color=colour)
        left = point.recall > NEAR
        beside = (-7 if left else 7, -12 if place % 2 else 5)  # above and below in turn: close ones are both legible
        how: dict[str, Any] = {"xytext": beside, "textcoords": "offset points", "ha": "right" if left else "left"}
        ax.annotate(point.name, (point.recall, point.precision), fontsize=8, color=theme.ink, **how)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("recall: real images that lie among samples", color=theme.ink, fontsize=9)
    ax.set_ylabel("precision: samples that lie among real images", color=theme.ink, fontsize=9)
    ax.grid(True, color=theme.faint, linewidth=0.5)
    plain_axes(ax, "", theme)
    return figure


def write_tradeoff(points: Sequence[Point], path: Path) -> None:
    """Write the points as a PNG on white."""
    write_figure(draw_tradeoff(points), path)
