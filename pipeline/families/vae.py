"""What variational autoencoders share: the nets, the posterior, the pixels' likelihood and its bounds.

Images are in [-1, 1], where the 256 levels of a byte lie 2 / 255 apart. A decoder gives each pixel a location,
any real number: a likelihood that has to say "certainly black" puts it far below -1.

Legend: n samples, k draws of z per sample, z latent dimensions, c channels, h = w = size. All in nats, unless bits
are named.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from pipeline.config import Count, NonNegative, Positive, PositiveFloat
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.noise import Noise
from pipeline.families.optimization import Optimized
from pipeline.nets.layers import NormName, Upsampling
from pipeline.nets.pairs import PAIRS, NetName
from pipeline.nets.shapes import CriticShape, GeneratorShape

LEVEL = 2.0 / 255.0  # between two levels of a byte, in [-1, 1]
SCALE_RATE = 10.0  # a scale moves this much faster than a weight: a step of 0.001 would take thousands to its place
NEAR_PRIOR = 0.01  # of an encoder's last weights: q(z | x) begins near N(0, I), whatever the net's initialization


@dataclass(frozen=True)
class Gaussian:
    """Independent normal variables.

    Attributes:
        mean: (n, z), (n, 1, z) or maps (n, z, h, w).
        log_variance: of the same shape.
    """

    mean: Tensor
    log_variance: Tensor

    def draw(self, normal: Tensor) -> Tensor:
        """Return draws from standard normal numbers, of their shape (the reparametrization trick)."""
        return self.mean + (0.5 * self.log_variance).exp() * normal

    def log_density(self, value: Tensor) -> Tensor:
        """Return the logarithm of the density, summed over the last dimension."""
        squares = (value - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (squares + self.log_variance + math.log(2.0 * math.pi)).sum(-1)

    def kl(self, prior: "Gaussian") -> Tensor:
        """Return KL(self || prior) of each dimension, of their shape; never negative but for rounding."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * (-prior.log_variance).exp()
        return 0.5 * (distance + ratio.exp() - 1.0 - ratio)

    def times(self, other: "Gaussian") -> "Gaussian":
        """Return the normalized product of the two densities, of each dimension: precisions add up, and weigh means."""
        log_variance = -torch.logaddexp(-self.log_variance, -other.log_variance)
        own, others = ((log_variance - normal.log_variance).exp() for normal in (self, other))
        return Gaussian(own * self.mean + others * other.mean, log_variance)

    def per_draw(self) -> "Gaussian":
        """Return the same variables for values of (n, k, z)."""
        return Gaussian(self.mean[:, None], self.log_variance[:, None])


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, diag exp log_variance) || N(0, I)): (n, z), (n, z) -> (n,); never negative."""
    zero = torch.zeros_like(mean)
    return Gaussian(mean, log_variance).kl(Gaussian(zero, zero)).sum(1)


def bits_per_dimension(nats: Tensor, dimensions: int) -> Tensor:
    """Convert nats per image to bits per pixel and channel."""
    return nats / (math.log(2.0) * dimensions)


# ---- Likelihoods of pixels: (..., c, h, w) images, and locations of a shape that broadcasts, to (...)


def discretized_logistic(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Return log P(images) of 256-level pixels under a logistic, integrated over each level's bin.

    Kingma et al., arXiv:1606.04934, eq. 15; the outermost bins reach to infinity, so that the 256
    probabilities sum to one. log_scale: broadcastable.
    """
    inverse, half = torch.exp(-log_scale), 0.5 * LEVEL
    upper, lower = (images - location + half) * inverse, (images - location - half) * inverse
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), stable far out in the tails
    inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-LEVEL * inverse))
    log_probability = torch.where(
        images < -1 + half, logsigmoid(upper), torch.where(images > 1 - half, -softplus(lower), inner)
    )
    return log_probability.sum((-3, -2, -1))


def dequantized_gaussian(images: Tensor, location: Tensor, log_scale: Tensor, uniform: Tensor) -> Tensor:
    """Return a bound on log P(images): log of the normal density at x + u, times a level's width.

    u is uniform in x's bin.

    By Jensen's inequality E_u log p(x + u) <= log of the bin's mass over its width (Theis, van den Oord, Bethge,
    arXiv:1511.01844, section 3.1). uniform: numbers in [0, 1) of the images' shape.
    """
    spread = images + (uniform - 0.5) * LEVEL
    squares = ((spread - location) * torch.exp(-log_scale)).square()
    density = -0.5 * (squares + math.log(2.0 * math.pi)) - log_scale
    return (density + math.log(LEVEL)).sum((-3, -2, -1))


def bernoulli(images: Tensor, location: Tensor) -> Tensor:
    """Return x log p + (1 - x) log(1 - p) of intensities x in [0, 1]; p = (1 + tanh location) / 2.

    It is the expected log P of the image made black or white at random, each pixel white with its intensity. Of
    a gray image itself it is no likelihood: over the 256 levels it does not sum to one.
    """
    white = (images + 1.0) / 2.0
    return (white * logsigmoid(2.0 * location) + (1.0 - white) * logsigmoid(-2.0 * location)).sum((-3, -2, -1))


def unbounded(images: Tensor) -> Tensor:
    """Undo the tanh with which a generator ends: images to locations, so that nothing saturates."""
    return torch.atanh(images.clamp(-1.0 + 1e-6, 1.0 - 1e-6))


class Likelihood(nn.Module, ABC):
    """log p(x | z): images (..., c, h, w), locations, the images' noise -> (...).

    scale: of the distribution around the location, in units of [-1, 1]; None: one per channel, to be learned.
    """

    of: ClassVar[str] = ""  # what a bound on it is a bound of, as the beginning of a score's name
    has_scale: ClassVar[bool] = True

    def __init__(self, channels: int, scale: float | None) -> None:
        super().__init__()
        if self.has_scale:
            start = -1.0 if scale is None else math.log(scale)
            self.raw = nn.Parameter(torch.full((channels, 1, 1), start / SCALE_RATE))

    @property
    def log_scale(self) -> Tensor:
        """(c, 1, 1)."""
        return SCALE_RATE * self.raw

    @abstractmethod
    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        """Return log p(images | location), (...); the noise is that of the images' first dimension."""

    @staticmethod
    def image(location: Tensor) -> Tensor:
        """Return what is shown of a location: the most likely image, in [-1, 1]."""
        return location.clamp(-1.0, 1.0)


class DiscretizedLogistic(Likelihood):
    """A probability of the 256 levels."""

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        return discretized_logistic(images, location, self.log_scale)


class DequantizedGaussian(Likelihood):
    """A bound on the probability of the 256 levels, by uniform dequantization."""

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        uniform = noise.uniform("dequantization", *images.shape[1:])
        return dequantized_gaussian(images, location, self.log_scale, uniform)


class Bernoulli(Likelihood):
    """Of images made black or white at random; what is shown is the probability of white."""

    of = "binarized_"
    has_scale = False

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        return bernoulli(images, location)

    @staticmethod
    def image(location: Tensor) -> Tensor:
        return location.tanh()


LikelihoodName = Literal["bernoulli", "gaussian", "discretized_logistic"]

LIKELIHOODS: dict[LikelihoodName, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": DequantizedGaussian,
    "discretized_logistic": DiscretizedLogistic,
}


def check_likelihood(method: Any) -> None:
    """Raise ValueError if a method has a ``scale`` that its ``likelihood`` does not have."""
    if method.scale is None:
        return
    if not LIKELIHOODS[method.likelihood].has_scale:
        raise ValueError(f"scale: the {method.likelihood} likelihood has none; leave it out")


def trained_nets(method: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the nets, and of the likelihood where it has something to learn."""
    learned = LIKELIHOODS[method.likelihood].has_scale and method.scale is None
    return (*names, "likelihood") if learned else names


def bound_in_bits(likelihood: LikelihoodName, bound: str, log_probability: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return a bound on log p(x) as bits per dimension, by a name that says which bound and of what."""
    name = f"{LIKELIHOODS[likelihood].of}{bound}_bits_per_dim"
    return {name: bits_per_dimension(-log_probability, images[0].numel())}


# ---- Methods


@dataclass(frozen=True)
class Draws:
    """Latents drawn from the posterior.

    Attributes:
        posterior: q(z | x).
        prior: p(z).
        latents: (n, k, z).
        log_likelihood: log p(x | z), (n, k).
    """

    posterior: Gaussian
    prior: Gaussian
    latents: Tensor
    log_likelihood: Tensor

    def kl(self) -> Tensor:
        """Return KL(q(z | x) || p(z)) of each latent dimension, in closed form: (n, z)."""
        return self.posterior.kl(self.prior)

    def log_weights(self) -> Tensor:
        """Return log p(x, z) - log q(z | x), (n, k): the mean of exp is an unbiased estimate of p(x)."""
        densities = (normal.per_draw().log_density(self.latents) for normal in (self.prior, self.posterior))
        prior, posterior = densities
        return self.log_likelihood + prior - posterior


@dataclass(frozen=True, kw_only=True)
class Variational(Optimized):
    """An encoder q(z | x), a prior p(z) and a decoder with a likelihood p(x | z), whose locations are the samples.

    Attributes:
        latent: dimensions of z.
        net: of encoder and decoder.
        width: channels of the layer of the highest resolution; for mlp, units of a layer.
        upsampling: how the decoder doubles the resolution.
        norm: normalization in both nets.
        likelihood: of the pixels.
        scale: of a gaussian or logistic around its location, where images are in [-1, 1]; null: learned.
    """

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    encodes: ClassVar[tuple[str, ...]] = ("mean", "log_variance")
    decodes: ClassVar[tuple[str, ...]] = ("mean",)

    latent: Positive = 32
    net: NetName = "dcgan"
    width: Positive = 32
    upsampling: Upsampling = "transposed"
    norm: NormName = "batch"
    likelihood: LikelihoodName = "discretized_logistic"
    scale: PositiveFloat | None = None
    lr: PositiveFloat = 1e-3

    def __post_init__(self) -> None:
        check_likelihood(self)

    @abstractmethod
    def loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        """Return what is minimised, in nats per image, and what is worth logging."""

    # Declared hooks besides the contract's: the only implemented behaviour that a method may replace.

    def encoder_options(self, spec: ImageSpec) -> dict[str, Any]:
        """Return further fields of the encoder's shape, such as classes."""
        return {}

    def decoder_options(self, spec: ImageSpec) -> dict[str, Any]:
        """Return further fields of the decoder's shape, such as classes."""
        return {}

    def further_nets(self, spec: ImageSpec) -> dict[str, nn.Module]:
        """Return nets besides encoder, decoder and likelihood; ``sampled`` names them too."""
        return {}

    def prior(self, nets: Nets, labels: Tensor) -> Gaussian:
        """Return p(z), (n, z); by default standard normal."""
        zero = torch.zeros(labels.shape[0], self.latent, device=labels.device)
        return Gaussian(zero, zero)

    def build(self, spec: ImageSpec) -> Nets:
        shape: dict[str, Any] = {"channels": spec.channels, "size": spec.size}
        shape |= {"width": self.width, "norm_name": self.norm}
        encoder = PAIRS[self.net].Critic(CriticShape(outputs=2 * self.latent, **shape, **self.encoder_options(spec)))
        decoder = PAIRS[self.net].Generator(
            GeneratorShape(latent=self.latent, upsampling=self.upsampling, **shape, **self.decoder_options(spec))
        )
        with torch.no_grad():
            encoder.head.linear.weight *= NEAR_PRIOR
        likelihood = LIKELIHOODS[self.likelihood](spec.channels, self.scale)
        nets = {"encoder": encoder, "decoder": decoder, "likelihood": likelihood}
        return nn.ModuleDict(nets | self.further_nets(spec))

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("vae", trained_nets(self, self.sampled), self.loss),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return self.drawn(nets, like.noise.normal("latent", self.latent), like.labels)

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        posterior = self.posterior(nets, batch)
        return {"mean": posterior.mean, "log_variance": posterior.log_variance}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.image(nets, encoded["mean"], labels)

    def drawn(self, nets: Nets, normal: Tensor, labels: Tensor) -> Tensor:
        """Turn standard normal numbers (n, z) and labels (n,) into images (n, c, h, w) in [-1, 1]."""
        return self.image(nets, self.prior(nets, labels).draw(normal), labels)

    def image(self, nets: Nets, latents: Tensor, labels: Tensor) -> Tensor:
        """Decode latents (n, z) with labels (n,) to images (n, c, h, w) in [-1, 1]."""
        return LIKELIHOODS[self.likelihood].image(unbounded(nets["decoder"](latents, labels)))

    def posterior(self, nets: Nets, batch: Batch) -> Gaussian:
        """Return q(z | x), (n, z)."""
        mean, log_variance = nets["encoder"](batch.images, batch.labels).chunk(2, dim=1)
        return Gaussian(mean, log_variance)

    def draws(self, nets: Nets, batch: Batch, count: int) -> Draws:
        """Draw ``count`` latents per sample from the posterior and decode them."""
        posterior = self.posterior(nets, batch)
        latents = posterior.per_draw().draw(batch.noise.normal("posterior", count, self.latent))
        decoded = nets["decoder"](latents.flatten(0, 1), batch.labels.repeat_interleave(count))
        location = unbounded(decoded).unflatten(0, (-1, count))
        log_likelihood = nets["likelihood"](batch.images[:, None], location, batch.noise)
        return Draws(posterior, self.prior(nets, batch.labels), latents, log_likelihood)

    def bits(self, bound: str, log_probability: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return a bound on log p(x), (n,) or 0-d, as bits per dimension, by the name of the score.

        Args:
            bound: which one, such as "elbo".
            log_probability: the bound in nats.
            batch: the images whose dimensions count.

        Returns:
            One entry, such as "elbo_bits_per_dim".
        """
        return bound_in_bits(self.likelihood, bound, log_probability, batch.images)


@dataclass(frozen=True, kw_only=True)
class Annealed(Optimized):
    """A divergence that is weighted, over time, and partly free.

    Attributes:
        beta: weight of the KL.
        beta_warm_up: images over which beta rises linearly from 0 (Bowman et al., arXiv:1511.06349).
        free_bits: bits per latent dimension that cost nothing (Kingma et al., arXiv:1606.04934, section C.8: the KL's
            maximum with them; of each sample, not of the batch's mean, so that a sample's loss is its own).
    """

    beta: NonNegative = 1.0
    beta_warm_up: Count = 0
    free_bits: NonNegative = 0.0

    def weight(self, clock: Clock) -> float:
        """Return beta at a time."""
        return self.beta * (min(1.0, clock.seen / self.beta_warm_up) if self.beta_warm_up else 1.0)

    def paid(self, kl: Tensor, clock: Clock) -> Tensor:
        """Return what is paid for the KL of each dimension, (n, z), at a time: 0-d, in nats per image."""
        paid = kl.clamp(min=self.free_bits * math.log(2.0)) if self.free_bits else kl
        return self.weight(clock) * paid.sum(1).mean()


@dataclass(frozen=True, kw_only=True)
class Elbo(Variational, Annealed):
    """The evidence lower bound with a weighted divergence, one draw per sample."""

    def loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        draws = self.draws(nets, batch, 1)
        reconstruction, kl = -draws.log_likelihood.mean(), draws.kl()
        whole = kl.sum(1).mean()
        logs = {"reconstruction": reconstruction, "kl": whole} | self.bits("elbo", -reconstruction - whole, batch)
        return reconstruction + self.paid(kl, clock), logs

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        draws = self.draws(nets, batch, 1)
        return self.bits("elbo", draws.log_likelihood.mean(1) - draws.kl().sum(1), batch)
