"""How large gradients were, as a distribution at every time of a training."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.render.curves import LIGHT, LINE, Theme, plain_axes
from pipeline.render.picture import Picture, Subject

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SUFFIX = "/gradient_norm"
TIMES, SIZES = 24, 16  # columns at most, and rows
FEWEST = 8  # norms in a column: of fewer a distribution says nothing


Array = NDArray[np.float64]


def histogram_over_time(points: Sequence[tuple[int, float]]) -> tuple[Array, Array, Array]:
    """Return the distribution of a series at every time.

    Args:
        points: (images seen, value); those that are not finite or not positive count nowhere.

    Returns:
        Shares (sizes, times), of which each column sums to 1, or to 0 where there is nothing; the edges of the times,
        in images seen; the edges of the sizes, as log10. All empty without points.
    """
    kept = [(seen, math.log10(value)) for seen, value in points if math.isfinite(value) and value > 0]
    if not kept:
        return np.zeros((0, 0)), np.zeros(0), np.zeros(0)
    seen, sizes = np.array(kept).T
    times = max(1, min(TIMES, len(kept) // FEWEST))
    low, high = sizes.min(), sizes.max()
    margin = max(0.05, 0.02 * (high - low))  # of one value alone there is a range, too
    edges = np.linspace(0, seen.max(), times + 1), np.linspace(low - margin, high + margin, SIZES + 1)
    counts, time_edges, size_edges = np.histogram2d(seen, sizes, bins=edges)
    totals = counts.sum(1, keepdims=True)
    return (counts / np.maximum(totals, 1)).T, time_edges, size_edges


def _draw(subject: Subject) -> "Figure | None":
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    series = {name.removesuffix(SUFFIX): points for name, points in subject.history.items() if name.endswith(SUFFIX)}
    found = {name: made for name, points in series.items() if (made := histogram_over_time(points))[0].size}
    if not found:
        return None
    figure = Figure(figsize=(4.8 * len(found), 3.0), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, (name, (shares, times, sizes)) in zip(axes, found.items(), strict=True):
        ax.pcolormesh(times, 10**sizes, shares, cmap=_shades(LIGHT), vmin=0)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        plain_axes(ax, name, LIGHT)
    figure.supxlabel("images seen", color=LIGHT.ink, fontsize=9)
    figure.supylabel("norm of the gradient", color=LIGHT.ink, fontsize=9)
    return figure


def _shades(theme: Theme) -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shades", [theme.paper or "white", LINE, theme.ink])


PICTURE = Picture(
    title="Gradient norms over time",
    caption=(
        "Each column is the distribution of the gradient's norm at that time of training, of the means of log "
        "windows: the darker, the more of them. A band that widens or climbs is a training that loses its footing."
    ),
    needs=frozenset({"history"}),
    draw=_draw,
)
