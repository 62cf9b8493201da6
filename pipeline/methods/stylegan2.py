"""StyleGAN2: Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, "Analyzing and improving the image quality of
StyleGAN", CVPR 2020, arXiv:1912.04958.

    critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))) + gamma / 2 E |grad D(x)|_2^2,   s the sigmoid
    generator:  -E log s(D(G(z))) + beta E (|J_w^T y|_2 - a)^2,   y ~ N(0, I) over the number of pixels' root,
                J_w the Jacobian of the image with respect to w, a the running mean of |J_w^T y|_2

Both penalties are lazy: added at every k-th turn only, times k. The path length is the root mean square over an
image's styles. Style mixing, per image: with some probability the styles from a random layer on are another
latent's. The truncation of the noise that sampling is given is the paper's psi: w moves to mean w + psi (w - mean w).
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.config import NonNegative, Positive, PositiveFloat, Probability, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Nets
from pipeline.core.precision import without_autocast
from pipeline.core.world import World
from pipeline.families.gan import GAN, Critic, Terms
from pipeline.families.latents import PRIORS
from pipeline.families.penalties import r1_penalty
from pipeline.nets import stylegan2
from pipeline.nets.shapes import PyramidShape


@dataclass(frozen=True, kw_only=True)
class StyleGAN2(GAN):
    """A GAN whose generator scales its convolutions by styles.

    The paper: latent 512, width 32 at 1024 pixels, max_width 512, mapping_layers 8 (2 in arXiv:2006.06676 at 32).

    Attributes:
        width: channels at the data's size, doubling with each halving.
        max_width: channels at most.
        mapping_layers: layers from latents to styles.
        conditional: whether both nets see the labels.
        mixing: probability of style mixing, per image.
        noise: whether each layer's map gets noise of a learned strength; without it the latents alone vary the images.
        gamma: weight of R1; the paper has 10 at 1024 pixels, and Karras et al., arXiv:2006.06676, 0.01 at 32.
        penalty_every: iterations from one R1 penalty to the next.
        path_weight: beta, the weight of the path length penalty; 0: none.
        path_every: iterations from one path length penalty to the next.
    """

    latent: Positive = 64
    width: Positive = 16
    max_width: Positive = 128
    mapping_layers: Positive = 2
    conditional: bool = False
    mixing: Probability = 0.9
    noise: bool = True
    gamma: NonNegative = 1.0
    penalty_every: Positive = 16
    path_weight: NonNegative = 2.0
    path_every: Positive = 8
    lr: PositiveFloat = 2e-3
    beta1: Unit = 0.0
    beta2: Unit = 0.99

    def pair(self, spec: ImageSpec) -> dict[str, nn.Module]:
        if self.conditional and not spec.classes:
            raise ValueError("conditional: the data has no labels; set it to false")
        classes = spec.classes if self.conditional else 0
        shape = PyramidShape(
            channels=spec.channels, size=spec.size, width=self.width, max_width=self.max_width, classes=classes
        )
        return {
            "generator": stylegan2.Generator(shape, latent=self.latent, mapping_layers=self.mapping_layers),
            "critic": stylegan2.Critic(shape),
        }

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        penalty = real.new_zeros(())
        if clock.iteration % self.penalty_every == 0:
            penalty = 0.5 * self.gamma * self.penalty_every * r1_penalty(critic, real)
        return {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean(), "r1": penalty}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": softplus(-critic(fake)).mean()}

    def latents(self, batch: Batch) -> Tensor:
        return PRIORS[self.prior](replace(batch.noise, truncation=None), self.latent)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        generator = _generator(nets)
        psi = 1.0 if like.noise.truncation is None else like.noise.truncation
        w = generator.mapping(self.latents(like), like.labels)
        return self._images(generator, generator.repeated(torch.lerp(generator.mapping.average, w, psi)), like)

    def generate(self, nets: Nets, batch: Batch) -> Tensor:
        return self._images(_generator(nets), self._styles(nets, batch), batch)

    def _styles(self, nets: Nets, batch: Batch) -> Tensor:
        """(n, L, latent): those of one latent, or from a random layer on those of another."""
        generator, noise = _generator(nets), batch.noise
        latents = torch.cat((self.latents(batch), self.latents(batch.stream("mixing"))))
        first, second = generator.mapping(latents, batch.labels.repeat(2)).chunk(2)
        crossing = 1 + noise.integers("crossing", generator.styles - 1)
        mixes = noise.uniform("mixes") < self.mixing
        return generator.mixed(first, second, torch.where(mixes, crossing, generator.styles))

    def _images(self, generator: stylegan2.Generator, styles: Tensor, batch: Batch) -> Tensor:
        untruncated = replace(batch.noise, truncation=None)
        noise = untruncated.normal("pixels", sum(generator.noises)) if self.noise else None
        return generator.synthesis(styles, noise).float()

    def regularizer(self, nets: Nets, batch: Batch, clock: Clock) -> Terms:
        if not self.path_weight or clock.iteration % self.path_every:
            return {"path": batch.images.new_zeros(())}
        return {"path": self.path_weight * self.path_every * self._path_penalty(nets, batch.stream("path"))}

    def after_generator(self, nets: Nets, world: World) -> None:
        _generator(nets).follow(world)

    def _path_penalty(self, nets: Nets, batch: Batch) -> Tensor:
        generator = _generator(nets)
        with without_autocast(batch.images.device):
            styles = self._styles(nets, batch)
            images = self._images(generator, styles, batch)
            lengths = stylegan2.path_lengths(images, styles, batch.noise.normal("direction", *images.shape[1:]))
        generator.path_latest.copy_(lengths.detach().mean())
        return (lengths - generator.path_mean).square().mean()


def _generator(nets: Nets) -> stylegan2.Generator:
    return cast(stylegan2.Generator, nets["generator"])
