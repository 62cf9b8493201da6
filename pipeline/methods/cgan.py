"""Conditional GAN: Mirza, Osindero, "Conditional generative adversarial nets", 2014, arXiv:1411.1784 (concatenation);
Miyato, Koyama, "cGANs with projection discriminator", ICLR 2018, arXiv:1802.05637 (projection, hinge loss).

    critic:      E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y)),   y the label
    generator:  -E D(G(z, y), y)
    projection:     D(x, y) = a(phi(x)) + <V y, phi(x)>                 (eq. 3)
    concatenation:  D(x, y) = a(phi(x, V y))
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import relu

from pipeline.config import Positive, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.optimization import Schedule
from pipeline.nets.layers import Conditioning, NormName, Upsampling
from pipeline.nets.pairs import NetName


@dataclass(frozen=True, kw_only=True)
class CGAN(NamedNets):
    """A conditional GAN; defaults at the values of Miyato and Koyama.

    Those are residual nets, class-conditional batch norm in the generator and spectral norm in the critic.

    Attributes:
        conditioning: how the critic sees the label.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    conditioning: Conditioning = "projection"
    net: NetName = "resnet"
    upsampling: Upsampling = "nearest"
    latent: Positive = 128
    critic_norm: NormName = "none"
    spectral_norm: bool = True
    beta1: Unit = 0.0
    beta2: Unit = 0.9
    critic_steps: Positive = 5
    schedule: Schedule = "linear"

    def generator_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"classes": spec.classes}

    def critic_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"classes": spec.classes, "conditioning": self.conditioning}

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": relu(1 - critic(real)).mean(), "fake": relu(1 + critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
