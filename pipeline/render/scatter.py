"""Two clouds of points, real images and samples, in one plane."""

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.render.curves import LIGHT, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL, SAMPLES = "#3b82c4", "#d9822b"


def draw_clouds(real: Tensor, samples: Tensor, title: str) -> "Figure":
    """Draw points (n, 2) of real images and (m, 2) of samples, neither kind always on top, without axes' numbers."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    points = np.concatenate([real.numpy(), samples.numpy()])
    colours = np.array([REAL] * len(real) + [SAMPLES] * len(samples))
    order = np.random.default_rng(0).permutation(len(points))
    ax.scatter(points[order, 0], points[order, 1], c=colours[order], s=9, alpha=0.6, linewidths=0)
    for name, colour in (("real images", REAL), ("samples", SAMPLES)):
        ax.scatter([], [], c=colour, s=20, label=name)
    ax.legend(frameon=False, fontsize=8, labelcolor=LIGHT.ink)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", "datalim")
    plain_axes(ax, title, LIGHT)
    return figure


def some(features: FeatureSet, most: int) -> Tensor:
    """Return the features of ``most`` distinct images at most, (n, d) float64, evenly among them."""
    count = min(most, features.distinct)
    return features.features[[place * features.distinct // count for place in range(count)]].double()
