"""LSGAN: Mao, Li, Xie, Lau, Wang, Smolley, "Least squares generative adversarial networks", ICCV 2017,
arXiv:1611.04076; eq. 9, the 0-1 coding.

    critic:     1/2 E (D(x) - 1)^2 + 1/2 E D(G(z))^2
    generator:  1/2 E (D(G(z)) - 1)^2
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.config import Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms


@dataclass(frozen=True, kw_only=True)
class LSGAN(NamedNets):
    """A GAN with a least squares loss; its params are those of the family, beta1 is the paper's."""

    beta1: Unit = 0.5

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": 0.5 * (critic(real) - 1).square().mean(), "fake": 0.5 * critic(fake).square().mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": 0.5 * (critic(fake) - 1).square().mean()}
