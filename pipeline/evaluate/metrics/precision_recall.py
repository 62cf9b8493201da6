"""Improved precision and recall: Kynkaanniemi, Karras, Laine, Lehtinen, Aila, NeurIPS 2019, arXiv:1904.06991, eq. 1, 2.

With B_k(x; X) the ball around x that reaches its k-th nearest neighbour in X without x, k = 3, of real images X and
samples Y,

    precision   |{y in Y: y in B_k(x; X) for some x in X}| / |Y|: how many samples lie among real images?
    recall      |{x in X: x in B_k(y; Y) for some y in Y}| / |X|: how many real images lie among samples?

Both fall as there are fewer images of the kind that the balls are of, so only equal counts compare. The balls are
closed, as in the paper; each image counts once, since four copies of an image have balls of no extent.
"""

from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require

NEIGHBOURS = 3


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(real.distinct, NEIGHBOURS + 1, real=True)
    require(samples.distinct, NEIGHBOURS + 1)
    found = samples.overlap(real)
    precision, recall = found.b_covered[:, NEIGHBOURS - 1], found.a_covered[:, NEIGHBOURS - 1]
    share = _share(precision)
    error = (share * (1 - share) / len(precision)) ** 0.5  # the balls of real images stay as they are
    return {"precision": Score(share, error=error), "recall": Score(_share(recall))}


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
