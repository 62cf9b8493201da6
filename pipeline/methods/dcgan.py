"""DCGAN: Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks", ICLR 2016, arXiv:1511.06434; losses of Goodfellow et al., 2014.

    critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))),   s the sigmoid
    generator:  -E log s(D(G(z)))                          (non-saturating)
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.config import Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms


@dataclass(frozen=True, kw_only=True)
class DCGAN(NamedNets):
    """A convolutional GAN; defaults at the paper's values (Adam 2e-4, beta1 0.5, batch norm in both nets)."""

    beta1: Unit = 0.5

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": softplus(-critic(fake)).mean()}
