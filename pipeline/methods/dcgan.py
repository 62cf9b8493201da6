"""DCGAN: Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks", ICLR 2016, arXiv:1511.06434; losses of Goodfellow et al., 2014.

    critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))),   s the sigmoid
    generator:  -E log s(D(G(z)))                          (non-saturating)
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.core.batch import Batch
from pipeline.families.gan import GAN, Terms


@dataclass(frozen=True, kw_only=True)
class DCGAN(GAN):
    """Params: those of the family, at the paper's values (Adam 2e-4, beta1 0.5, batch norm in both nets)."""

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        return {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean()}

    def generator_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        return {"fooling": softplus(-critic(fake)).mean()}
