"""R3GAN: Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN! A modern GAN baseline",
NeurIPS 2024, arXiv:2501.05441; the relativistic pairing loss is Jolicoeur-Martineau's (arXiv:1807.00734).

    critic:     E f(D(x) - D(G(z))) + gamma / 2 (E |grad D(x)|_2^2 + E |grad D(G(z))|_2^2)      (R1 and R2)
    generator:  E f(D(G(z)) - D(x)),   f(t) = log(1 + exp(-t)),   each x paired with one G(z)

Over the training gamma and the learning rate fall and Adam's beta2 rises, along a half cosine.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.config import NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.families.gan import GAN, Critic, Terms
from pipeline.families.optimization import Schedule
from pipeline.families.penalties import r1_penalty
from pipeline.nets import r3gan
from pipeline.nets.shapes import PyramidShape


@dataclass(frozen=True, kw_only=True)
class R3GAN(GAN):
    """A relativistic GAN with R1 and R2.

    Defaults of the schedules are the authors' for CIFAR-10 (FFHQ at 256 pixels: gamma 150 to 15); their learning rate
    ends at 5e-5, here at zero. The authors for CIFAR-10: width and max_width 768, conditional, ADA, batches of 512.

    Attributes:
        width: channels at the data's size, doubling with each halving.
        max_width: channels at most.
        blocks: residual blocks per resolution.
        group_width: channels per group of the 3 x 3 convolutions.
        conditional: whether both nets see the labels.
        gamma: weight of R1 and R2 at the beginning.
        final_gamma: that weight at the end.
        beta2: Adam's beta2 at the beginning.
        final_beta2: Adam's beta2 at the end.
    """

    latent: Positive = 64
    width: Positive = 16
    max_width: Positive = 128
    blocks: Positive = 2
    group_width: Positive = 16
    conditional: bool = False
    gamma: NonNegative = 0.05
    final_gamma: NonNegative = 0.005
    lr: PositiveFloat = 2e-4
    schedule: Schedule = "cosine"
    beta1: Unit = 0.0
    beta2: Unit = 0.9
    final_beta2: Unit = 0.99

    def uses_budget(self) -> bool:
        return True  # gamma and beta2 go along a cosine over it

    def pair(self, spec: ImageSpec) -> dict[str, nn.Module]:
        if self.conditional and not spec.classes:
            raise ValueError("conditional: the data has no labels; set it to false")
        classes = spec.classes if self.conditional else 0
        shape = PyramidShape(
            channels=spec.channels, size=spec.size, width=self.width, max_width=self.max_width, classes=classes
        )
        stages = {"blocks": self.blocks, "group_width": self.group_width}
        return {
            "generator": r3gan.Generator(shape, latent=self.latent, **stages),
            "critic": r3gan.Critic(shape, **stages),
        }

    def settings(self, clock: Clock) -> dict[str, Any]:
        if self.optimizer not in ("adam", "adamw"):
            return {}
        return {"betas": (self.beta1, along_cosine(self.beta2, self.final_beta2, clock))}

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        half_gamma = 0.5 * along_cosine(self.gamma, self.final_gamma, clock)
        return {
            "pairing": softplus(critic(fake) - critic(real)).mean(),
            "r1": half_gamma * r1_penalty(critic, real),
            "r2": half_gamma * r1_penalty(critic, fake),
        }

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"pairing": softplus(critic(real) - critic(fake)).mean()}


def along_cosine(first: float, last: float, clock: Clock) -> float:
    """Return a value that falls or rises from ``first`` to ``last`` over the budget, along a half cosine."""
    return last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * clock.fraction))
