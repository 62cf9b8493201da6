"""SNGAN: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial networks",
ICLR 2018, arXiv:1802.05957; the hinge loss of Lim, Ye, "Geometric GAN", arXiv:1705.02894 (eqs. 16, 17).

    critic:     E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))),   every layer of D divided by its spectral norm
    generator:  -E D(G(z))
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

from pipeline.config import Positive, Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.optimization import Schedule
from pipeline.nets.layers import NormName, Upsampling
from pipeline.nets.pairs import NetName


@dataclass(frozen=True, kw_only=True)
class SNGAN(NamedNets):
    """A GAN whose critic has spectral norm and a hinge loss.

    Defaults are the paper's for its residual nets (table 3, and setting C's optimizer in the authors' code: Adam 2e-4,
    0, 0.9, five critic steps, the learning rate falling linearly to zero); for CIFAR-10 it has width 256.
    """

    net: NetName = "resnet"
    upsampling: Upsampling = "nearest"
    latent: Positive = 128
    critic_norm: NormName = "none"
    spectral_norm: bool = True
    beta1: Unit = 0.0
    beta2: Unit = 0.9
    critic_steps: Positive = 5
    schedule: Schedule = "linear"

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": relu(1 - critic(real)).mean(), "fake": relu(1 + critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
