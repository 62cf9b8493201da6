"""The Frechet distance between two Gaussians fitted to features: Heusel et al., NeurIPS 2017,
arXiv:1706.08500, eq. 6 (FID when the features are Inception's).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With S2 = F F^T, kept with the reference, and S1 = L L^T (Cholesky), the last trace is the sum of the square roots of
the eigenvalues of (L^T F)^T (L^T F): one symmetric eigenvalue problem. It is as exact as singular values where F's
columns descend: an eigenvalue's error is then a share of its own size. Where S1 is singular (fewer samples than
dimensions, constant features, copies), with S1 = G G^T too, they are the singular values of G^T F, without those that
are zero by construction, whose square roots would be eight digits of noise; scipy's sqrtm fails there.
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet, Statistics, gram
from pipeline.evaluate.metric import PARTS, Metric, Quantity, Score, jackknife_error, require

FEWEST_SAMPLES, FEWEST_REAL = 2, 20  # a covariance of fewer real images says next to nothing
SAMPLES_FOR_ERROR = 2000  # whose spread is that of all to a fiftieth
_SINGULAR = 1e-8  # share of a feature's variance that those before it leave; below, the square root costs 12 digits


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
    if not (a.finite and b.finite):
        raise ValueError("statistics are not all finite")
    if b.factor is None and a.factor is not None:
        a, b = b, a
    squared = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * _overlap(a, b)
    return float(squared)


def _overlap(a: Statistics, b: Statistics) -> Tensor:
    """Return tr (S1 S2)^(1/2)."""
    factor = b.factorized().factor
    assert factor is not None
    if a.root is None and factor.numel() and (triangle := _triangle(a.covariance)) is not None:
        return _root_trace(_transposed_times(triangle, factor))
    root = a.factorized().factor if a.root is None else a.root
    assert root is not None
    triangle = torch.linalg.qr(root.T @ factor, mode="r").R  # its rows descend as the factor's columns do
    if not triangle.numel():
        return torch.zeros((), dtype=torch.float64)  # one set is one image again and again
    lengths = triangle.norm(dim=1)
    triangle = triangle[lengths > lengths.amax() * max(factor.shape) * torch.finfo(torch.float64).eps]
    return _root_trace(triangle.T.contiguous())


def _triangle(covariance: Tensor) -> Tensor | None:
    """Return the lower L (d, d) with covariance = L L^T; None if a feature is so nearly a sum of others that a square
    root of what is left would lack digits."""
    scale = covariance.diagonal().clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    triangle, failed = torch.linalg.cholesky_ex(covariance * scale[:, None] * scale)
    regular = not failed and bool(triangle.diagonal().square().amin() > _SINGULAR)
    return triangle / scale[:, None] if regular else None


def _transposed_times(lower: Tensor, x: Tensor) -> Tensor:
    """Return lower^T x, in blocks: 9/16 of the work of a full matrix."""
    width = -(-len(lower) // 8)
    blocks = [lower[start:, start : start + width].T @ x[start:] for start in range(0, len(lower), width)]
    return torch.cat(blocks)


def _root_trace(x: Tensor) -> Tensor:
    """Return tr (x^T x)^(1/2), whose diagonal descends."""
    return torch.linalg.eigvalsh(gram(x)).clamp_min(0).sqrt().sum()


def standard_error(samples: Tensor, moments: Statistics, real: Statistics) -> float:
    """Return the standard error of the distance over samples whose covariance is regular, in closed form.

    Of the distance, as a function of the samples' distribution, the first derivative at a sample y is, but for a
    constant,

        h(y) = 2 (m1 - m2).(y - m1) + |y - m1|^2 - (y - m1)^T F M^(-1/2) F^T (y - m1),   M = F^T S1 F, S2 = F F^T,

    and the error std_y h(y) / sqrt(n) (Serfling 1980, ch. 6): one eigenvalue problem, where leaving out parts takes
    ten.

    Args:
        samples: (n, d), distinct, n > d.
        moments: theirs.
        real: what they are compared with.

    Returns:
        The error, 0 or more.
    """
    factor = real.factorized().factor
    assert factor is not None
    values, vectors = torch.linalg.eigh(factor.T @ (moments.covariance @ factor))
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    root = factor @ (vectors[:, kept] * values[kept].pow(-0.25))
    centred = samples[:SAMPLES_FOR_ERROR].double() - moments.mean
    squares = centred.square().sum(1) - (centred @ root).square().sum(1)
    return float((2 * (centred @ (moments.mean - real.mean)) + squares).std() / len(samples) ** 0.5)


def left_out_error(samples: Tensor, real: Statistics, parts: int = PARTS) -> float:
    """Return the jackknife's standard error of the distance over samples (interval.py).

    It serves where a derivative does not: of fewer samples than dimensions, whose covariance is singular.

    What a part takes with it is subtracted from the sums of all samples, in the coordinates of the real images' factor,
    so that leaving it out costs one eigenvalue problem and no covariance.

    Args:
        samples: (n, d), distinct, n >= 2 parts.
        real: what they are compared with.
        parts: that are left out in turn.

    Returns:
        The error, 0 or more.
    """
    real = real.factorized()
    assert real.factor is not None
    mean = samples.double().mean(0)
    centred = samples.double() - mean
    projected = centred @ real.factor  # (n, r)
    whole, scatter = gram(projected), centred.square().sum()
    values = []
    for rows in torch.arange(len(samples)).tensor_split(parts):
        count = len(samples) - len(rows)
        shift = -centred[rows].sum(0) / count  # of the mean, without these rows
        moved = shift @ real.factor
        inner = (whole - gram(projected[rows]) - count * torch.outer(moved, moved)) / (count - 1)
        trace = (scatter - centred[rows].square().sum() - count * shift.square().sum()) / (count - 1)
        overlap = torch.linalg.eigvalsh(inner).clamp_min(0).sqrt().sum()
        values.append((mean + shift - real.mean).square().sum() + trace - 2 * overlap)
    return float(jackknife_error(torch.stack(values)))


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(real), FEWEST_REAL, real=True)
    require(len(samples), FEWEST_SAMPLES)
    against = real.statistics.factorized()
    moments, distinct = samples.statistics, samples.distinct_features
    value = frechet_distance(against, moments)
    if len(distinct) < 2 * PARTS:
        return {"fid": Score(value)}
    if len(distinct) <= distinct.shape[1]:
        return {"fid": Score(value, error=left_out_error(distinct, against), error_by="jackknife")}
    own = moments if len(distinct) == len(samples) else Statistics.of(distinct)
    return {"fid": Score(value, error=standard_error(distinct, own, against))}


METRIC = Metric(
    quantities={"fid": Quantity(title="FID", better="lower")},
    needs=frozenset({"features", "statistics"}),
    compute=_compute,
    interval="own",
)
