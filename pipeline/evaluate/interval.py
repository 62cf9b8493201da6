"""How far a number would move with other samples of the same weights: its standard error, and an interval of 95%.

The delete-a-group jackknife (Quenouille 1949; Tukey 1958): the samples are cut into g = 10 parts, each is left out in
turn, and with the values theta_(j) without part j

    error^2 = (g - 1) / g  sum_j (theta_(j) - mean theta_(.))^2,    interval = theta -+ t_{g - 1} error.

The bootstrap would not do: a resample has about a third of the samples not at all and the others several times, so that
its covariance is of fewer images, which biases FID upwards by more than its error, and each copy is its original's
nearest neighbour. Where a metric is a mean over samples, or its error has a closed form, it says it itself; and where
the jackknife is too wide, as of shares that a union over samples decides (shares.py).

The error is of the samples alone: the real images are the same for all runs, and another training is another number. Of
a run with several seeds it is over trainings (seeds.py).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import PARTS, Metric, Score, TooFewError, UnfitError, jackknife_error
from pipeline.evaluate.student import t_quantile


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval that holds the number with a probability of 95%.

    by: how it was found; error: the number's standard error; degrees: of freedom of the error's own estimate, None
    where it is as good as known.
    """

    low: float
    high: float
    by: str
    error: float
    degrees: float | None


def intervals(metric: Metric, found: dict[str, Score], samples: FeatureSet, real: FeatureSet) -> dict[str, Interval]:
    """Return the intervals of a metric's numbers.

    Args:
        metric: what was computed.
        found: what it gave.
        samples: of what.
        real: what they were compared with.

    Returns:
        An interval by quantity; none for one that has no error of its own, where the metric gives its own, and none
        where there are too few samples to leave some out.
    """
    if metric.interval == "own":
        known = {name: score for name, score in found.items() if score.error is not None}
        over = "images" if "model" in metric.needs else "samples"
        return {name: _around(score.value, score.error or 0.0, score.error_by, over) for name, score in known.items()}
    try:
        errors = jackknife(metric, samples, real)
    except (TooFewError, UnfitError):
        return {}
    return {name: _around(score.value, errors[name], "jackknife") for name, score in found.items() if name in errors}


def jackknife(metric: Metric, samples: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Return the standard errors of a metric's numbers over samples.

    Args:
        metric: a function of the samples; a mean of parts, such as IS, of parts of the remaining ones.
        samples: n, distinct or not: copies are left out, which would hide what leaving their original out changes.
        real: what they are compared with.

    Returns:
        An error by quantity.

    Raises:
        TooFewError: there are fewer samples than two in a part, or the metric needs more.
        UnfitError: as the metric.
    """
    if samples.distinct < 2 * PARTS:
        raise TooFewError(have=samples.distinct, need=2 * PARTS, real=False)
    bounds = [part * samples.distinct // PARTS for part in range(PARTS + 1)]
    rest = [samples.without(slice(low, high)) for low, high in pairwise(bounds)]
    values = [{name: score.value for name, score in metric.compute(part, real).items()} for part in rest]
    table = torch.tensor([list(row.values()) for row in values], dtype=torch.float64)
    return dict(zip(values[0], jackknife_error(table).tolist(), strict=True))


def over_trainings(values: Sequence[float]) -> Interval:
    """Return the interval of the mean of a number over trainings that differ in their seed alone, two or more."""
    error, degrees = statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1
    return _interval(statistics.fmean(values), error, f"Student's t of {len(values)} trainings, over seeds", degrees)


def _around(value: float, error: float, by: str, over: str = "samples") -> Interval:
    how, degrees = (f"{by} of {PARTS} parts", PARTS - 1) if by == "jackknife" else (by, None)
    return _interval(value, error, f"{how}, over {over}", degrees)


def _interval(value: float, error: float, by: str, degrees: float | None) -> Interval:
    half = t_quantile(degrees) * error
    return Interval(low=value - half, high=value + half, by=f"95%, {by}", error=error, degrees=degrees)
