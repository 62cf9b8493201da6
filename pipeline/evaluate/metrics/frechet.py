"""The Frechet distance between two Gaussians fitted to features: Heusel et al., NeurIPS 2017,
arXiv:1706.08500, eq. 6 (FID when the features are Inception's).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With S = F F^T, the last trace is the sum of the singular values of F1^T F2: real by construction,
and exact for singular covariances (fewer samples than dimensions), where scipy's sqrtm fails.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """count: samples; mean: (d,); covariance: (d, d), unbiased (count - 1). Both float64."""

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """features: (n, d), n >= 2. Raises ValueError on NaN or infinity."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features must be (n >= 2, d), got {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError("features are not all finite")
        mean = torch.stack([part.double().sum(0) for part in features.split(_CHUNK)]).sum(0) / len(features)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in features.split(_CHUNK):  # a float64 copy of 50,000 x 2,048 features would take 800 MB
            centred = part.double() - mean
            covariance.addmm_(centred.T, centred)
        return cls(count=len(features), mean=mean, covariance=covariance / (len(features) - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared distance, >= 0 up to rounding of the traces. Raises ValueError on non-finite statistics."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the features differ in dimension: {len(a.mean)} and {len(b.mean)}")
    overlap = torch.linalg.svdvals(_factor(a).T @ _factor(b)).sum()
    squared = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return float(squared)


def _factor(statistics: Statistics) -> Tensor:
    """(d, r) with covariance = factor factor^T, r its numerical rank."""
    if not (torch.isfinite(statistics.mean).all() and torch.isfinite(statistics.covariance).all()):
        raise ValueError("statistics are not all finite")
    values, vectors = torch.linalg.eigh(statistics.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()
