"""What normalizing flows share: dequantization, the exact log-likelihood, and sampling by the inverse.

A pixel of 256 levels is made continuous by uniform noise, v = (level + u) / 256 with u in [0, 1)
(Theis et al., arXiv:1511.01844, section 3.1), and the flow f maps v to latents z ~ N(0, I):

    log p(v) = log N(f(v); 0, I) + log |det df/dv|
    bits per dimension = -log2 p(v) / d + 8

Its mean over u bounds the negative log-likelihood of the levels from above. A uniform p(v) has 8 bits.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from pipeline.config import NonNegative, Positive
from pipeline.config.validation import bounds
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.families.optimization import Optimized
from pipeline.families.vae import bits_per_dimension
from pipeline.nets.flow.bijections import Bijection, Center, Chain, Logit
from pipeline.nets.flow.conditioners import initialize_actnorms
from pipeline.nets.flow.multiscale import LearnedPrior, MultiScale
from pipeline.nets.layers import refused_size

LEVELS = 3  # by default


def dequantize(images: Tensor, noise: Noise) -> Tensor:
    """Turn images in [-1, 1] (n, c, h, w), taken as their nearest of 256 levels, into v in [0, 1]."""
    levels = images.add(1.0).mul(127.5).round()
    return (levels + noise.uniform("dequantization", *images.shape[1:])) / 256.0


def to_images(v: Tensor) -> Tensor:
    """Turn v into images in [-1, 1] whose nearest level is floor(256 v), which undoes ``dequantize``.

    What the flow puts outside of [0, 1] becomes the nearest level: 0 or 255.
    """
    return ((256.0 * v - 0.5) / 127.5 - 1.0).clamp(-1.0, 1.0)


def normal_log_density(latents: Tensor) -> Tensor:
    """Return log N(z; 0, I) in nats: (n, d) -> (n,)."""
    return -0.5 * (latents.square() + math.log(2 * math.pi)).sum(1)


@dataclass(frozen=True, kw_only=True)
class Flow(Optimized):
    """An invertible net from images to normal latents; its loss is in bits per dimension, averaged over the batch.

    Attributes:
        levels: resolutions, each half the one before; null: 3, or as many as the data's size can be halved for.
        width: hidden channels of the couplings' networks.
        preprocessing: v as the flow's layers get it: center (v - 1/2), or logit, of alpha + (1 - 2 alpha) v, which
            suits images of mostly black and white.
        alpha: margin of the logit.
        temperature: of the normal latents when sampling; 1 samples the model itself.
    """

    sampled: ClassVar[tuple[str, ...]] = ("flow",)
    encodes: ClassVar[tuple[str, ...]] = ("latents", "log_likelihood")
    decodes: ClassVar[tuple[str, ...]] = ("latents",)
    halves_last: ClassVar[bool] = True  # the last level halves the image too

    levels: Positive | None = None
    width: Positive = 32
    preprocessing: Literal["center", "logit"] = "center"
    alpha: Annotated[float, bounds(gt=0, lt=0.5)] = 0.05
    temperature: NonNegative = 1.0

    @abstractmethod
    def layers(self, spec: ImageSpec) -> tuple[list[list[Bijection]], LearnedPrior | None]:
        """Return each level's layers, the first level's after the preprocessing, and what is learned of the prior."""

    def depth(self, size: int) -> int:
        """Return how many levels there are.

        Args:
            size: of the images.

        Returns:
            ``levels``, or by default 3 or as many as there can be.

        Raises:
            ValueError: the size cannot be halved so often.
        """
        most = _halvings(size) + (not self.halves_last)
        depth = self.levels or max(min(LEVELS, most), 1)
        if depth > most:
            halvings = depth - (not self.halves_last)
            what = f"cannot be halved {halvings} times, as levels: {depth} does" if halvings > 1 else "is odd"
            instead = f", or levels to {most}" if most else ""
            raise ValueError(f"{refused_size(size, lambda other: _halvings(other) >= halvings, what)}{instead}")
        return depth

    def build(self, spec: ImageSpec) -> Nets:
        (first, *others), prior = self.layers(spec)
        before = Logit(self.alpha) if self.preprocessing == "logit" else Center()
        levels = [Chain(layers) for layers in ([before, *first], *others)]
        return nn.ModuleDict({"flow": MultiScale((spec.channels, spec.size, spec.size), levels, prior)})

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("flow", ("flow",), self._loss),)

    def initialize(self, nets: Nets, batch: Batch, world: World) -> None:
        initialize_actnorms(nets["flow"], world, lambda: self.latents_of(nets, batch))

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return self.images_of(nets, self.temperature * self._noise(nets, like), like.labels)

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"bits_per_dim": self.bits_per_dim(nets, batch)}

    def bits_per_dim(self, nets: Nets, batch: Batch) -> Tensor:
        """Return bits per dimension (n,) of the batch's images with its own dequantization noise."""
        latents, logdet = self.latents_of(nets, batch)
        nats = -(normal_log_density(latents) + logdet)
        return bits_per_dimension(nats, latents.shape[1]) + 8.0

    def overflow_remedy(self) -> str:
        return f"Lower its temperature (now {self.temperature}), or its learning rate."

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return the latents, and the log-likelihood in nats of the 256-level image: -d log(2) bits per dimension."""
        latents, logdet = self.latents_of(nets, batch)
        log_density = normal_log_density(latents) + logdet
        return {"latents": latents, "log_likelihood": log_density - latents.shape[1] * math.log(256.0)}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.images_of(nets, encoded["latents"], labels)

    def latents_of(self, nets: Nets, batch: Batch, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return latents (n, d) and log |det| (n,) of the batch's images, given its own labels or others."""
        given = batch.labels if labels is None else labels
        latents, logdet = nets["flow"](dequantize(batch.images, batch.noise), given)
        return latents, logdet

    def images_of(self, nets: Nets, latents: Tensor, labels: Tensor) -> Tensor:
        """Turn latents (n, d) into images in [-1, 1]."""
        return to_images(_flow(nets).inverse(latents, labels))

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        bits = self.bits_per_dim(nets, batch).mean()
        return bits, {"bits_per_dim": bits}

    def _noise(self, nets: Nets, like: Batch) -> Tensor:
        return like.noise.normal("latent", _flow(nets).dimensions)


def _halvings(size: int) -> int:
    """Return how often a size can be halved."""
    return (size & -size).bit_length() - 1


def _flow(nets: Nets) -> MultiScale:
    flow = nets["flow"]
    assert isinstance(flow, MultiScale)
    return flow
