"""The Inception Score: Salimans et al., NeurIPS 2016, arXiv:1606.03498, sec. 4.

    IS = exp E_x KL(p(y|x) || p(y))

on each of 10 parts of the samples: their mean and standard deviation are reported.
"""

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
    # E KL(p || m) is E sum p log p - sum m log m, m the mean of p: one pass over all samples, whatever the parts.
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    within = (p * log_p).sum(1)
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    divergences = [within[low:high].mean() - _plogp(p[low:high].mean(0)) for low, high in pairwise(bounds)]
    scores = torch.stack(divergences).exp()
    return float(scores.mean()), float(scores.std(correction=0))


def _plogp(p: Tensor) -> Tensor:
    """Return the sum of p log p, 0 where p is."""
    return torch.special.xlogy(p, p).sum()


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
