"""The Kernel Inception Distance: Binkowski et al., ICLR 2018, arXiv:1801.01401, eq. 4 and sec. 4.

The unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3,

    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean_{i, j} k(x_i, y_j),

of 100 pairs of random subsets: their mean and standard deviation are reported. Unlike FID it does not grow as images
get fewer, and it may be negative where the sets are alike.

The error over samples is that of the whole estimate, of whose gradient in the samples' distribution the first term is

    h(y) = mean_{y' != y} k(y, y') - mean_x k(y, x),   error = 2 std_y h(y) / sqrt(m)

(Serfling 1980, ch. 5; Bounliphone et al., ICLR 2016, arXiv:1511.04581, sec. 3).

A subset is at most half of the smaller set: subsets that are all the same set would have no spread, whatever the
uncertainty is. Each pair of images is looked at once for all subsets: with a column of ones and zeros per subset, the
sums of the kernel over them are the columns' quadratic forms. With 2,000 images of each kind that takes a twenty-fifth
of the time.
"""

import torch
from torch import Tensor

from pipeline.core.noise import Noise
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require

SUBSETS = 100
SUBSET_SIZE = 1000
FEWEST = 4  # of each kind: halves of two
FOR_ERROR = 2000  # of each kind
_ROWS = 1024


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate from features (m, d) and (n, d), m, n >= 2, in float64."""
    x, y = x.double(), y.double()
    return float(_mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y)) - 2 * _kernel(x, y).mean())


def kernel_inception_distance(samples: Tensor, real: Tensor, seed: int, subsets: int = SUBSETS) -> tuple[float, float]:
    """Estimate the distance from pairs of subsets, drawn without replacement.

    Args:
        samples: (n, d), distinct, n >= 4.
        real: (m, d), distinct, m >= 4.
        seed: of the draws.
        subsets: how many pairs.

    Returns:
        Mean and (population) standard deviation over the pairs.

    Raises:
        TooFewError: there are fewer images of either kind.
        ValueError: NaN or infinity.
    """
    require(len(samples), FEWEST)
    require(len(real), FEWEST, real=True)
    size = min(SUBSET_SIZE, len(samples) // 2, len(real) // 2)
    if not (torch.isfinite(samples).all() and torch.isfinite(real).all()):
        raise ValueError("features are not all finite")
    x, y = (
        torch.stack([_chosen(count, size, seed, f"{kind}{pair}") for pair in range(subsets)], 1)
        for kind, count in (("x", len(samples)), ("y", len(real)))
    )
    within = _sums(samples, x) + _sums(real, y)
    estimates = within / (size * (size - 1)) - 2 * _sums(samples, x, real, y) / size**2
    return float(estimates.mean()), float(estimates.std(correction=0))


def _sums(x: Tensor, chosen: Tensor, y: Tensor | None = None, chosen_y: Tensor | None = None) -> Tensor:
    """Sum the kernel over subsets of pairs, in float64 and bounded memory.

    Args:
        x: (m, d).
        chosen: (m, s), 1 where an image is in a subset, else 0.
        y: (n, d); None: x itself, without the pairs of an image and itself.
        chosen_y: (n, s); None: as for x.

    Returns:
        (s,).
    """
    total = torch.zeros(chosen.shape[1], dtype=torch.float64)
    other, others = (x, chosen) if y is None or chosen_y is None else (y, chosen_y)
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS].double()
        own = chosen[start : start + _ROWS]
        for begin in range(start if y is None else 0, len(other), _ROWS):
            same = y is None and begin == start
            kernel = _kernel(rows, rows if same else other[begin : begin + _ROWS].double())
            if same:
                kernel.fill_diagonal_(0)
            twice = 2 if y is None and not same else 1  # the other triangle
            total += twice * torch.linalg.vecdot(own, kernel @ others[begin : begin + _ROWS], dim=0)
    return total


def standard_error(samples: Tensor, real: Tensor) -> float:
    """Return the standard error of the estimate over samples: of 2,000 of them the spread is that of all to a fiftieth.

    Args:
        samples: (m, d), distinct, m >= 3.
        real: (n, d), of which no more than 2,000 are taken: their mean kernel hardly depends on which.

    Returns:
        The error, 0 or more.
    """
    real, count = real[:FOR_ERROR].float(), len(samples)
    values = []
    for part in samples[:FOR_ERROR].float().split(_ROWS):
        own = _kernel(part, samples.float()).double().sum(1) - _kernel_with_itself(part)
        values.append(own / (count - 1) - _kernel(part, real).double().mean(1))
    return float(2 * torch.cat(values).std() / count**0.5)


def _kernel_with_itself(x: Tensor) -> Tensor:
    return (x.double().square().sum(1) / x.shape[1] + 1) ** 3


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))


def _chosen(count: int, size: int, seed: int, name: str) -> Tensor:
    """Return (count,) float64: 1 for ``size`` of the images, the same ones on every machine, and 0 for the others."""
    order = Noise(seed, torch.arange(count)).stream("kid").uniform(name).argsort(stable=True)
    return torch.zeros(count, dtype=torch.float64).index_fill_(0, order[:size], 1.0)


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    # Copies within a set would count as pairs of independent images.
    distinct, others = samples.features[: samples.distinct], real.features[: real.distinct]
    mean, spread = kernel_inception_distance(distinct, others, samples.seed)
    return {"kid": Score(mean, spread, standard_error(distinct, others))}


METRIC = Metric(
    quantities={"kid": Quantity(title="KID", better="lower")},
    needs=frozenset({"features"}),
    compute=_compute,
    interval="own",
    settings={
        "kernel": "(x.y / d + 1)^3",
        "subsets": SUBSETS,
        "subset_size": f"{SUBSET_SIZE}, at most half of the smaller set",
    },
)
