"""Latent spaces: their priors, and walks through them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.core.noise import Noise


def slerp(start: Tensor, end: Tensor, fractions: Tensor) -> Tensor:
    """Interpolate along great circles (White, arXiv:1609.04468): (n, z), (n, z), (m,) -> (n, m, z).

    A straight line between two normal latents passes near the origin, where no sample lies.
    """
    unit_start, unit_end = (torch.nn.functional.normalize(z, dim=1) for z in (start, end))
    angle = (unit_start * unit_end).sum(1).clamp(-1, 1).acos()[:, None, None]
    t = fractions[None, :, None]
    near = angle.sin() < 1e-6  # parallel latents: the straight line is the limit
    safe = torch.where(near, torch.ones_like(angle), angle.sin())
    left = torch.where(near, 1 - t, ((1 - t) * angle).sin() / safe)
    right = torch.where(near, t, (t * angle).sin() / safe)
    return left * start[:, None] + right * end[:, None]


def straight(start: Tensor, end: Tensor, fractions: Tensor) -> Tensor:
    """Interpolate linearly: (n, z), (n, z), (m,) -> (n, m, z)."""
    return torch.lerp(start[:, None], end[:, None], fractions[None, :, None])


PriorName = Literal["normal", "uniform"]

# Each draws latents: noise, z -> (n, z).
PRIORS: dict[PriorName, Callable[[Noise, int], Tensor]] = {
    "normal": lambda noise, size: noise.normal("latent", size),
    "uniform": lambda noise, size: noise.uniform("latent", size) * 2 - 1,
}
