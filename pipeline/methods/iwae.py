"""IWAE: Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, arXiv:1509.00519.

    loss:  -E log 1/k sum_i w_i,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_1 .. z_k ~ q(z|x)

For k = 1 it is the VAE's bound; it tightens with k and tends to log p(x).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import Positive
from pipeline.core.batch import Batch, Clock
from pipeline.core.method import Logs, Nets
from pipeline.families.vae import Variational


@dataclass(frozen=True, kw_only=True)
class IWAE(Variational):
    """A VAE with the importance weighted bound.

    Attributes:
        draws_per_image: k in training.
        test_draws: k of the score.
    """

    draws_per_image: Positive = 5
    test_draws: Positive = 50

    def loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        draws = self.draws(nets, batch, self.draws_per_image)
        bound, kl = importance_weighted_bound(draws.log_weights()).mean(), draws.kl().sum(1).mean()
        reconstruction = -draws.log_likelihood.mean()
        logs = {"reconstruction": reconstruction, "kl": kl}
        return -bound, logs | self.bits("elbo", -reconstruction - kl, batch) | self.bits("iwae", bound, batch)

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        draws = self.draws(nets, batch, self.test_draws)
        elbo = draws.log_likelihood.mean(1) - draws.kl().sum(1)
        return self.bits("elbo", elbo, batch) | self.bits("iwae", importance_weighted_bound(draws.log_weights()), batch)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean weight: (n, k) -> (n,)."""
    return torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])
