"""What the tests of codebooks share."""

import torch
from torch import Tensor

from pipeline.core.noise import Noise
from pipeline.nets.codebook import Codebook


def features(count: int = 8, dim: int = 5, seed: int = 0, first: int = 0) -> Tensor:
    """(n, dim, 4, 4); sample i is the same in any batch."""
    return Noise(seed, torch.arange(first, first + count)).normal("features", dim, 4, 4)


def codebook(codes: int = 16, dim: int = 5, **settings: float) -> Codebook:
    """One that has settled: every code has an equal share."""
    torch.manual_seed(0)
    book = Codebook(codes=codes, dim=dim, **settings)
    book.usage.fill_(1.0 / codes)
    return book
