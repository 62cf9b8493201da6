"""How far samples lie from each other: the median distance of a sample to its nearest other sample, as a share of the
same distance among as many real images.

A generator with a few modes puts most samples close to another one, so the share falls to about 0, where the variance
over all samples would hardly fall. Samples of the data's distribution have 1; noise may have more, so more is not
better.
"""

import torch
from torch import Tensor

from pipeline.watch.measure import Look, Measure

FEWEST = 2  # a nearest other one


def nearest_distance(points: Tensor) -> float:
    """Return the median Euclidean distance of a point to its nearest other point; NaN for fewer than two points.

    Args:
        points: (n, d) float64.

    Returns:
        The distance; 0 if most points have a copy.
    """
    if len(points) < FEWEST:
        return float("nan")
    # Not by matrix products, whose rounding would keep copies apart.
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(float("inf"))
    return float(distance.min(dim=1).values.median())


def _compute(look: Look) -> float:
    real = nearest_distance(look.real)
    return nearest_distance(look.samples) / real if real > 0 else float("nan")


MEASURE = Measure(title="Diversity of samples, of real images'", better=None, compute=_compute)
