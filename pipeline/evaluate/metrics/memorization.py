"""Whether samples lie nearer to the real images than further real images would: Meehan, Chaudhuri, Dasgupta, "A
non-parametric test to detect data-copying in generative models", AISTATS 2020, arXiv:2004.05675, sec. 2.2.

With d(z; T) the distance from z to the nearest image in T, the real images,

    memorization = P(d(y; T) < d(x; T - x)) + P(both equal) / 2 of a sample y and a real image x:

the Mann-Whitney statistic U / (n m). One half: samples are as far away as new images; 1: copies; 0: nothing like the
data. The spread is the statistic's where both are alike, sqrt((n + m + 1) / (12 n m)); the paper's Z is the difference
from one half, in spreads.

The paper takes held-out images for x. Images of one distribution need none: a left-out training image is to the
others what a new one would be to as many. Given the real images, the number is a mean over samples, and its error a
mean's. Two things this cannot see: copies of images that are not in the reference
(evaluate.reference_samples), and copying in one region that another, where samples are bad, makes up for. It is of
use where evaluate.split is the split that was trained on.
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require
from pipeline.evaluate.neighbours import Points, nearest


def shares_above(low: Tensor, high: Tensor) -> Tensor:
    """Return, of each value of ``low`` (n,), the share of ``high`` (m,) that is above it; equal ones count half."""
    ordered = high.sort().values
    above = len(high) - torch.searchsorted(ordered, low, right=True)
    at_least = len(high) - torch.searchsorted(ordered, low)
    return (above + at_least).double() / (2 * len(high))


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(real.distinct, 2, real=True)
    require(samples.distinct, 1)
    n, m = samples.distinct, real.distinct
    found = nearest(Points.of(samples.distinct_features, real.points.centre), 1, real.points)[0][:, 0]
    spread = ((n + m + 1) / (12 * n * m)) ** 0.5
    shares = shares_above(found, real.nearest[:, 0])
    error = float(shares.std()) / n**0.5 if n > 1 else None
    return {"memorization": Score(float(shares.mean()), spread, error)}


METRIC = Metric(
    quantities={"memorization": Quantity(title="Memorization", better=None)},
    needs=frozenset({"features"}),
    compute=_compute,
    interval="own",
    settings={"even": 0.5},
)
