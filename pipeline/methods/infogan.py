"""InfoGAN: Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel, "InfoGAN: interpretable representation learning by
information maximizing generative adversarial nets", NeurIPS 2016, arXiv:1606.03657.

    information:  L_I = E log Q(c | G(z, c)) + H(c) <= I(c; G(z, c))          (eq. 5)
    critic:       -E log s(D(x)) - E log(1 - s(D(G(z, c)))) - lambda L_I
    generator:    -E log s(D(G(z, c))) - lambda L_I                            (non-saturating)

c is one categorical code, and continuous ones from U[-1, 1]. Q shares all but the last layer with D: a softmax,
and a normal of unit variance around each continuous code (the authors' choice for MNIST).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softmax, softplus

from pipeline.config import NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Nets
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.latents import PRIORS


@dataclass(frozen=True, kw_only=True)
class InfoGAN(NamedNets):
    """A GAN whose latents hold codes that the critic recovers.

    Defaults are the paper's values for MNIST, where the generator's learning rate is five times the critic's.

    Attributes:
        categories: values of the categorical code.
        continuous: how many continuous codes there are.
        information: lambda, the weight of the information.
        latent: dimensions of the generator's input: z, then one per category, then the continuous codes.
    """

    encodes: ClassVar[tuple[str, ...]] = ("category", "codes")

    categories: Positive = 10
    continuous: Positive = 2
    information: NonNegative = 1.0
    latent: Positive = 74
    lr: PositiveFloat = 1e-3
    critic_lr: PositiveFloat | None = 2e-4
    beta1: Unit = 0.5

    def __post_init__(self) -> None:
        if self.latent <= self.categories + self.continuous:
            raise ValueError("latent: should be greater than categories + continuous, which are part of it")

    def critic_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"outputs": 1 + self.categories + self.continuous}

    def latents(self, batch: Batch) -> Tensor:
        z = PRIORS[self.prior](batch.noise, self.latent - self.categories - self.continuous)
        category = one_hot(batch.noise.integers("category", self.categories), self.categories)
        return torch.cat((z, category.float(), batch.noise.uniform("codes", self.continuous) * 2 - 1), dim=1)

    def generate(self, nets: Nets, batch: Batch) -> Tensor:
        latents = self.latents(batch)
        batch.shared["codes"] = latents[:, -self.categories - self.continuous :]
        images: Tensor = nets["generator"](latents, batch.labels)
        return images

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        on_fake = critic(fake)
        terms = {"real": softplus(-critic(real)[:, 0]).mean(), "fake": softplus(on_fake[:, 0]).mean()}
        return terms | self._uninformed(on_fake, batch)

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        on_fake = critic(fake)
        return {"fooling": softplus(-on_fake[:, 0]).mean()} | self._uninformed(on_fake, batch)

    def information_bound(self, guesses: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return L_I in nats: that of the categorical code, and that of the continuous ones.

        Args:
            guesses: Q's outputs, (n, categories + continuous).
            codes: the true codes, of the same shape; the category as one-hot.

        Returns:
            Two 0-d tensors.
        """
        logits, means = guesses.split((self.categories, self.continuous), dim=1)
        category, values = codes.split((self.categories, self.continuous), dim=1)
        of_category = (log_softmax(logits, dim=1) * category).sum(1).mean() + math.log(self.categories)
        of_values = -0.5 * (means - values).square() - 0.5 * math.log(2 * math.pi) + math.log(2)
        return of_category, of_values.sum(1).mean()

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return what Q says of the images: the category's probabilities, and the means of the continuous codes."""
        guesses = nets["critic"](batch.images, batch.labels)[:, 1:]
        logits, means = guesses.split((self.categories, self.continuous), dim=1)
        return {"category": softmax(logits, dim=1), "codes": means}

    def _uninformed(self, on_fake: Tensor, batch: Batch) -> Terms:
        of_category, of_values = self.information_bound(on_fake[:, 1:], batch.shared["codes"])
        return {"category": -self.information * of_category, "values": -self.information * of_values}
