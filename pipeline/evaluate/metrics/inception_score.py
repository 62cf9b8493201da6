"""The Inception Score: Salimans et al., NeurIPS 2016, arXiv:1606.03498, sec. 4.

    IS = exp E_x KL(p(y|x) || p(y))

on each of 10 parts of the samples: their mean and standard deviation are reported.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """logits: (n, k), n >= splits, samples in random order -> mean and (population) standard deviation.

    Between 1 and k. Raises ValueError on NaN or infinity and on fewer samples than splits.
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
