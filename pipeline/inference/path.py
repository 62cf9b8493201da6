"""Samples on the way from one latent to another: the random numbers of a sample, moved towards another sample's.

Whatever a method draws under the name "latent" is moved: along a great circle where it is normal, along a line where it
is uniform. All else, such as InfoGAN's codes, a label or StyleGAN2's pixel noise, stays the sample's own.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.core.noise import Noise
from pipeline.families.latents import slerp, straight

LATENT = "latent"


@dataclass(frozen=True)
class Between(Noise):
    """The random numbers of n samples, of which the latents lie between their own and others'.

    Attributes:
        towards: (n,) int64, the other samples' numbers.
        fraction: (n,) float32 in [0, 1] of the way.
    """

    towards: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    fraction: Tensor = field(default_factory=lambda: torch.empty(0))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape) float32, standard normal, as ``Noise`` does; a latent on its way along a great circle."""
        own = super().normal(name, *shape)
        if name != LATENT:
            return own
        other = self._others().normal(name, *shape)
        rows = zip(own.flatten(1), other.flatten(1), self.fraction, strict=True)
        return torch.cat([slerp(a[None], b[None], t[None])[:, 0] for a, b, t in rows]).reshape(own.shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape) float32 in [0, 1), as ``Noise`` does; a latent on its way along a line."""
        own = super().uniform(name, *shape)
        if name != LATENT or self.truncation is not None:  # a truncated normal is drawn through a uniform
            return own
        other = self._others().uniform(name, *shape)
        rows = zip(own.flatten(1), other.flatten(1), self.fraction, strict=True)
        return torch.cat([straight(a[None], b[None], t[None])[:, 0] for a, b, t in rows]).reshape(own.shape)

    def _others(self) -> Noise:
        return Noise(self.seed, self.towards, self.name, self.truncation)


def between(noise: Noise, towards: Tensor, fraction: Tensor) -> Between:
    """Return the random numbers of samples on their way towards others.

    Args:
        noise: of n samples.
        towards: (n,) int64, the others' numbers.
        fraction: (n,) in [0, 1] of the way.

    Returns:
        The random numbers.
    """
    return Between(noise.seed, noise.ids, noise.name, noise.truncation, towards, fraction)
