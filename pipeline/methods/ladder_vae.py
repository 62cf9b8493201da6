"""Ladder VAE: Sønderby, Raiko, Maaløe, Sønderby, Winther, "Ladder variational autoencoders", NeurIPS 2016,
arXiv:1602.02282; on maps, and down a path that keeps what it has seen, as Kingma et al., arXiv:1606.04934, section 4.

    loss:  -log p(x | z_1 .. z_L) + beta sum_l KL(q(z_l | x, z_l+1 ..) || p(z_l | z_l+1 ..))
    p(z_l | ..) = N(m, v),  q(z_l | x, ..) = N((m / v + m' / v') / (1 / v + 1 / v'), 1 / (1 / v + 1 / v'))     l < L
    p(z_L) = N(0, I),       q(z_L | x) = N(m', v')

m', v' come up from the image, m, v down from the latents above, which are drawn; each KL is in closed form. beta rises
over ``beta_warm_up`` (the paper's section 2.3). z_L are the smallest maps; every level has maps of twice the size.

What differs from the paper: convolutions instead of dense layers, and z_l depends on all latents above it and not on
z_l+1 alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pipeline.config import Count, Positive, PositiveFloat
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.vae import (
    LIKELIHOODS,
    Annealed,
    Gaussian,
    LikelihoodName,
    bound_in_bits,
    check_likelihood,
    trained_nets,
)
from pipeline.nets.ladder import Down, LadderShape, Up
from pipeline.nets.layers import NormName, Upsampling, doublings

LEVELS = 3  # by default, where the image can be halved so often


@dataclass(frozen=True)
class Inference:
    """A batch's latents and what they cost.

    Attributes:
        posteriors: q(z_l | x, z_l+1 ..), from the top level on; maps.
        kl: KL of each latent dimension from its prior, (n, ...) of each level.
        location: of p(x | z), (n, c, h, w).
    """

    posteriors: list[Gaussian]
    kl: list[Tensor]
    location: Tensor


@dataclass(frozen=True, kw_only=True)
class LadderVAE(Annealed):
    """A hierarchy of latents, whose posterior merges what comes up from the image and down from the latents above.

    Attributes:
        latent: channels of each level's latent maps.
        levels: of latents, the top one of 4 to 15 pixels a side, each of the others of twice that of the one above;
            null: 3, or as many as the size can be halved.
        width: channels at half the image's size; they double with each halving, up to 4 times.
        blocks: residual blocks of a level, on the way up and on the way down.
        upsampling: how the resolution is doubled on the way down.
        norm: normalization inside the blocks.
        likelihood: of the pixels.
        scale: of a gaussian or logistic around its location, where images are in [-1, 1]; null: learned.
    """

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    encodes: ClassVar[tuple[str, ...]] = ("mean", "log_variance")
    decodes: ClassVar[tuple[str, ...]] = ("mean",)

    latent: Positive = 4
    levels: Positive | None = None
    width: Positive = 32
    blocks: Count = 1
    upsampling: Upsampling = "transposed"
    norm: NormName = "batch"
    likelihood: LikelihoodName = "discretized_logistic"
    scale: PositiveFloat | None = None
    lr: PositiveFloat = 1e-3
    beta_warm_up: Count = 20_000

    def __post_init__(self) -> None:
        check_likelihood(self)

    def build(self, spec: ImageSpec) -> Nets:
        shape = LadderShape(
            channels=spec.channels,
            size=spec.size,
            width=self.width,
            latent=self.latent,
            levels=self.levels or min(LEVELS, doublings(spec.size)[1]),
            blocks=self.blocks,
            norm_name=self.norm,
            upsampling=self.upsampling,
        )
        likelihood = LIKELIHOODS[self.likelihood](spec.channels, self.scale)
        return nn.ModuleDict({"encoder": Up(shape), "decoder": Down(shape), "likelihood": likelihood})

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("ladder", trained_nets(self, self.sampled), self._loss),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        normal = _levels(nets, like.noise.normal("latent", _dimensions(nets)))
        location = nets["decoder"](lambda level, *prior: Gaussian(*prior).draw(normal[level]))
        return LIKELIHOODS[self.likelihood].image(location)

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return the posterior's means and log variances, (n, d), from the top level on, each given the means above."""
        posteriors = self.inferred(nets, batch, torch.zeros(len(batch), _dimensions(nets), device=batch.images.device))
        return {
            "mean": _flat([posterior.mean for posterior in posteriors.posteriors]),
            "log_variance": _flat([posterior.log_variance for posterior in posteriors.posteriors]),
        }

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        latents = _levels(nets, encoded["mean"])
        return LIKELIHOODS[self.likelihood].image(nets["decoder"](lambda level, *prior: latents[level]))

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        found, log_likelihood = self._drawn(nets, batch)
        return bound_in_bits(self.likelihood, "elbo", log_likelihood - _flat(found.kl).sum(1), batch.images)

    def inferred(self, nets: Nets, batch: Batch, normal: Tensor) -> Inference:
        """Draw the batch's latents level after level from the posterior, by standard normal numbers (n, d)."""
        upward, numbers = nets["encoder"](batch.images), _levels(nets, normal)
        posteriors, kl = list[Gaussian](), list[Tensor]()

        def draw(level: int, *moments: Tensor) -> Tensor:
            prior, posterior = Gaussian(*moments), Gaussian(*upward[level].chunk(2, dim=1))
            posteriors.append(posterior.times(prior) if level else posterior)
            kl.append(posteriors[-1].kl(prior))
            return posteriors[-1].draw(numbers[level])

        location = nets["decoder"](draw)
        return Inference(posteriors, kl, location)

    def _drawn(self, nets: Nets, batch: Batch) -> tuple[Inference, Tensor]:
        """Return latents of the posterior and log p(x | z), (n,)."""
        found = self.inferred(nets, batch, batch.noise.normal("posterior", _dimensions(nets)))
        return found, nets["likelihood"](batch.images, found.location, batch.noise)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        found, log_likelihood = self._drawn(nets, batch)
        reconstruction, kl = -log_likelihood.mean(), _flat(found.kl)
        whole, count = kl.sum(1).mean(), len(found.kl)
        logs = {"reconstruction": reconstruction, "kl": whole}
        logs |= {f"kl_{count - level}": part.flatten(1).sum(1).mean() for level, part in enumerate(found.kl)}
        logs |= bound_in_bits(self.likelihood, "elbo", -reconstruction - whole, batch.images)
        return reconstruction + self.paid(kl, clock), logs


def _shapes(nets: Nets) -> list[tuple[int, int, int]]:
    """(z, h, h) of each level."""
    return cast(Down, nets["decoder"]).latents


def _dimensions(nets: Nets) -> int:
    return sum(z * h * w for z, h, w in _shapes(nets))


def _levels(nets: Nets, flat: Tensor) -> list[Tensor]:
    """Split (n, d) into each level's maps (n, z, h, h)."""
    shapes = _shapes(nets)
    parts = flat.split([z * h * w for z, h, w in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _flat(maps: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in maps], dim=1)
