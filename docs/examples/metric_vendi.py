"""The Vendi Score: Friedman, Dieng, "The Vendi Score: a diversity evaluation metric for machine learning", TMLR 2023,
arXiv:2210.02410, definition 3.1.

With K_ij the cosine of the angle between the features of samples i and j, and l the eigenvalues of K / n,

    VS = exp(-sum_i l_i log l_i):

the effective number of different samples. It is 1 if all are alike, and n if no two have anything in common.
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require

FEWEST = 2


def vendi_score(features: Tensor) -> float:
    """Compute the score from features.

    Args:
        features: (n, d), no row zero.

    Returns:
        The score, between 1 and the smaller of n and d.
    """
    rows = torch.nn.functional.normalize(features.double(), dim=1)
    if len(rows) > rows.shape[1]:
        rows = rows.T  # X X^T and X^T X have the same eigenvalues, but for zeros
    values = torch.linalg.eigvalsh(rows @ rows.T / len(features)).clamp_min(0)
    return float(torch.special.entr(values).sum().exp())


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(samples), FEWEST)
    return {"vendi": Score(vendi_score(samples.features))}


METRIC = Metric(
    quantities={"vendi": Quantity(title="Vendi", better="higher")},
    needs=frozenset({"features"}),
    compute=_compute,
    compares=False,
    settings={"kernel": "cosine"},
)
