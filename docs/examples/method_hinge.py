"""Geometric GAN: Lim, Ye, "Geometric GAN", 2017, arXiv:1705.02894; eqs. 16 and 17, m = 1 in the paper.

critic:     E max(0, m - D(x)) + E max(0, m + D(G(z)))
generator:  -E D(G(z))
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms


@dataclass(frozen=True, kw_only=True)
class GeometricGAN(NamedNets):
    """Params: those of the family.

    Attributes:
        margin: scores beyond it no longer move the critic.
    """

    margin: float = 1.0

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": relu(self.margin - critic(real)).mean(), "fake": relu(self.margin + critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
