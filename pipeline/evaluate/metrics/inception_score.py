"""The Inception Score: Salimans et al., NeurIPS 2016, arXiv:1606.03498, sec. 4.

    IS = exp E_x KL(p(y|x) || p(y))

on each of 10 parts of the samples: their mean and standard deviation are reported.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require

SPLITS = 10


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Compute the score of samples in random order.

    Args:
        logits: (n, k), n >= splits.
        splits: parts that are scored separately.

    Returns:
        Mean and (population) standard deviation over the parts; the mean is between 1 and k.

    Raises:
        ValueError: NaN, infinity, or fewer samples than parts.
    """
    if logits.ndim != 2 or len(logits) < splits:
        raise ValueError(f"logits must be (n >= {splits}, k), got {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise ValueError("logits are not all finite")
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    parts = [_score(logits[start:end]) for start, end in pairwise(bounds)]
    scores = torch.stack(parts)
    return float(scores.mean()), float(scores.std(correction=0))


def _score(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(1)
    # log of the mean of p, without leaving logarithms: no log 0
    log_marginal = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(samples), SPLITS)
    return {"is": Score(*inception_score(samples.logits))}


METRIC = Metric(
    quantities={"is": Quantity(title="IS", better="higher")},
    needs=frozenset({"logits"}),
    compute=_compute,
    compares=False,
    settings={"splits": SPLITS},
)
