"""Small plots of a search as SVG inside a page, in the page's own colours; what lies behind a mark is its title.

All positions are in the units of a plot of WIDTH x HEIGHT.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 460.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 14.0, 42.0
TICKS = 4
MANY = 100.0  # a ratio of the largest to the smallest value beyond which an axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values to shares of an axis's length.

    Attributes:
        label: for people.
        low: at its beginning.
        high: at its end.
        log: whether equal ratios have equal lengths.
        choices: in the place of numbers.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: str, values: Iterable[float], log: bool | None = None) -> "Axis":
        """Return an axis that holds some numbers, with a little room at both ends.

        Args:
            label: for people.
            values: finite ones.
            log: whether it is logarithmic; None: where the numbers ask for it.

        Returns:
            The axis.
        """
        known = list(values) or [0.0, 1.0]
        low, high = min(known), max(known)
        if log is None:
            log = low > 0 and high > MANY * low
        if log:
            room = (high / low) ** 0.05 if high > low else 2.0
            return cls(label=label, low=low / room, high=high * room, log=True)
        room = 0.05 * (high - low) or max(abs(high) * 0.05, 0.5)
        return cls(label=label, low=low - room, high=high + room)

    def share(self, value: Any) -> float:
        """Return where a value lies, from 0 to 1."""
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Shares and texts of the ticks."""
        if self.choices:
            return [(self.share(choice), choice) for choice in self.choices]
        return [(self.share(value), _short(value)) for value in self._places() if self.low <= value <= self.high]

    def _places(self) -> list[float]:
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [10.0**decade for decade in decades]
            if sum(self.low <= value <= self.high for value in found) >= 2:
                return found[:: max(1, len(found) // (TICKS + 2))]
            return [factor * value for value in found for factor in (1, 2, 5)]
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= TICKS + 1)
        first = math.ceil(self.low / step)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Mark:
    """A point: where, of which class (its colour), and what is said of it."""

    x: Any
    y: Any
    kind: str
    title: str


def scatter(
    name: str, x: Axis, y: Axis, marks: Sequence[Mark], lines: Sequence[tuple[str, Sequence[tuple[Any, Any]]]] = ()
) -> str:
    """Return a plot of points and lines.

    Args:
        name: what is shown, for those who do not see it.
        x: the horizontal axis.
        y: the vertical one.
        marks: points; one of the kind "pruned" is a cross.
        lines: each its class, and its points.

    Returns:
        An svg element.
    """
    parts = [_frame(x, y)]
    for kind, points in lines:
        places = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in points)
        parts.append(f'<polyline class="line {kind}" points="{places}"/>')
    parts += [_mark(_x(x, mark.x), _y(y, mark.y), mark) for mark in marks]
    return _svg(name, parts)


def bars(name: str, values: Sequence[tuple[str, float]]) -> str:
    """Return horizontal bars of shares from 0 to 1, each with its name and number."""
    row = 30.0
    parts = []
    for place, (label, share) in enumerate(values):
        top = place * row + 8
        length = share * (WIDTH - 200)
        parts.append(f'<text class="tick" x="120" y="{top + 13:.1f}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="share" x="128" y="{top:.1f}" width="{max(length, 1):.1f}" height="18"/>')
        parts.append(f'<text class="tick" x="{136 + length:.1f}" y="{top + 13:.1f}">{share:.0%}</text>')
    return _svg(name, parts, height=len(values) * row + 12)


def parallel(name: str, axes: Sequence[Axis], rows: Sequence[tuple[str, str, Sequence[Any]]]) -> str:
    """Return parallel coordinates: one vertical axis per param, one line per trial.

    Args:
        name: what is shown.
        axes: of the params, and last of the objective.
        rows: each its class, its title, and its values; None where it has none, which the line leaves out.

    Returns:
        An svg element, as wide as two plots.
    """
    width, top, bottom = 2 * WIDTH, 34.0, HEIGHT - 14
    places = [90 + k * (width - 180) / max(len(axes) - 1, 1) for k in range(len(axes))]
    parts = []
    for place, axis in zip(places, axes, strict=True):
        parts.append(f'<text class="label" x="{place:.1f}" y="16" text-anchor="middle">{escape(axis.label)}</text>')
        parts.append(f'<path class="grid strong" d="M{place:.1f},{top}V{bottom}"/>')
        for share, text in axis.ticks:
            at = bottom - share * (bottom - top)
            parts.append(
                f'<text class="tick" x="{place - 5:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            )
    for kind, title, values in rows:
        points = [
            f"{place:.1f},{bottom - axis.share(value) * (bottom - top):.1f}"
            for place, axis, value in zip(places, axes, values, strict=True)
            if value is not None
        ]
        parts.append(
            f'<polyline class="line {kind}" points="{" ".join(points)}"><title>{escape(title)}</title></polyline>'
        )
    return _svg(name, parts, width=width)


def _short(value: float) -> str:
    """Return a number as a tick shows it: 20k, not 2e+04."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and value % size == 0):
            return f"{value / size:g}{unit}"
    return f"{value:.4g}"


def _x(axis: Axis, value: Any) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: Any) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for share, text in x.ticks:
        at = LEFT + share * (WIDTH - LEFT - RIGHT)
        parts.append(f'<path class="grid" d="M{at:.1f},{TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'
        )
    for share, text in y.ticks:
        at = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    half = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 13 {half})"'
    parts.append(f'<text class="label" x="13" y="{half}" text-anchor="middle" {turned}>{escape(y.label)}</text>')
    return "".join(parts)


def _mark(x: float, y: float, mark: Mark) -> str:
    title = f"<title>{escape(mark.title)}</title>"
    if mark.kind == "pruned":
        return f'<path class="mark pruned" d="M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8">{title}</path>'
    radius = 6 if mark.kind == "best" else 4
    return f'<circle class="mark {mark.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'


def _svg(name: str, parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(name, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
