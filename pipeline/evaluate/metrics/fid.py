"""The Frechet distance between two Gaussians fitted to features: Heusel et al., NeurIPS 2017,
arXiv:1706.08500, eq. 6 (FID when the features are Inception's).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With S = F F^T, the last trace is the sum of the singular values of F1^T F2: real by construction,
and exact for singular covariances (fewer samples than dimensions), where scipy's sqrtm fails.
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.metric import Metric, Quantity, Score, require

FEWEST_SAMPLES, FEWEST_REAL = 2, 20  # a covariance of fewer real images says next to nothing


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Compute the squared distance.

    Args:
        a: of one set.
        b: of the other.

    Returns:
        The squared distance, >= 0 up to rounding of the traces.

    Raises:
        ValueError: the dimensions differ, or the statistics are not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the features differ in dimension: {len(a.mean)} and {len(b.mean)}")
    overlap = torch.linalg.svdvals(_factorize(a).T @ _factorize(b)).sum()
    squared = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return float(squared)


def _factorize(statistics: Statistics) -> Tensor:
    """Return (d, r) with covariance = factor factor^T, r its numerical rank."""
    if not (torch.isfinite(statistics.mean).all() and torch.isfinite(statistics.covariance).all()):
        raise ValueError("statistics are not all finite")
    values, vectors = torch.linalg.eigh(statistics.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(real), FEWEST_REAL, real=True)
    require(len(samples), FEWEST_SAMPLES)
    return {"fid": Score(frechet_distance(real.statistics, samples.statistics))}


METRIC = Metric(
    quantities={"fid": Quantity(title="FID", better="lower")}, needs=frozenset({"statistics"}), compute=_compute
)
