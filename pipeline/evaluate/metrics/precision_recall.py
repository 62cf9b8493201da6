"""Improved precision and recall: Kynkaanniemi, Karras, Laine, Lehtinen, Aila, NeurIPS 2019, arXiv:1904.06991, eq. 1, 2.

With B_k(x; X) the ball around x that reaches its k-th nearest neighbour in X without x, k = 3, of real images X and
samples Y,

    precision   |{y in Y: y in B_k(x; X) for some x in X}| / |Y|: how many samples lie among real images?
    recall      |{x in X: x in B_k(y; Y) for some y in Y}| / |X|: how many real images lie among samples?

Both fall as there are fewer images of the kind that the balls are of, so only equal counts compare. The balls are
closed, as in the paper; each image counts once, since four copies of an image have balls of no extent.

Their errors are those of shares.py; recall's by at most 4,000 samples and 500 real images.
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require
from pipeline.evaluate.neighbours import Points, nearest, ranks
from pipeline.evaluate.shares import FEWEST, binomial, scale_free

NEIGHBOURS = 3
FOR_ERROR, REAL_FOR_ERROR = 4000, 500
_NEIGHBOURS = 16  # among which nearly always three are in a random half


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(real.distinct, NEIGHBOURS + 1, real=True)
    require(samples.distinct, NEIGHBOURS + 1)
    recall_error = error_of_recall(samples, real)
    found = samples.overlap(real)
    precision, recall = found.holding_b[:, NEIGHBOURS - 1] > 0, found.holding_a[:, NEIGHBOURS - 1] > 0
    share = _share(precision)
    error = binomial(share, len(precision))  # the balls of real images stay as they are
    recalled = Score(_share(recall), error=recall_error, error_by="halves")
    return {"precision": Score(share, error=error), "recall": recalled}


def error_of_recall(samples: FeatureSet, real: FeatureSet) -> float | None:
    """Return the standard error of recall over samples; None where they are too few for it.

    Args:
        samples: n, of which no more than 4,000 are taken; those nearest to each are found among the 16 nearest, which
            lack a third one of its half twice in a thousand: its ball then reaches the last of them.
        real: what they are compared with.

    Returns:
        The error, or None.
    """
    if samples.distinct < FEWEST:
        return None
    points = Points.of(samples.distinct_features[:FOR_ERROR])
    squared, beside = nearest(points, _NEIGHBOURS)
    rank = ranks(points, squared, Points.of(real.distinct_features[:REAL_FOR_ERROR], points.centre))

    def covered(half: Tensor) -> tuple[Tensor, Tensor]:
        own = (half[beside] == half[:, None]).cumsum(1)  # how many of the nearest are in the sample's half
        third = (own < NEIGHBOURS).sum(1).clamp_max(_NEIGHBOURS - 1)
        inside = rank <= third[:, None].to(torch.uint8)
        return inside[half].any(0), inside[~half].any(0)

    return scale_free(covered, len(points), samples.distinct, real.distinct, samples.seed)


def _share(covered: Tensor) -> float:
    return int(covered.sum()) / len(covered)


METRIC = Metric(
    quantities={
        "precision": Quantity(title="Precision", better="higher"),
        "recall": Quantity(title="Recall", better="higher"),
    },
    needs=frozenset({"features"}),
    compute=_compute,
    interval="own",
    settings={"neighbours": NEIGHBOURS},
)
