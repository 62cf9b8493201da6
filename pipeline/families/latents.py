"""Latent spaces: their priors, and walks through them."""

from collections.abc import Callable
from dataclasses import dataclass
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


Walk = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prior:
    """A distribution of latents.

    Attributes:
        draw: noise, z -> (n, z).
        walk: between latents, through likely ones.
    """

    draw: Callable[[Noise, int], Tensor]
    walk: Walk


PriorName = Literal["normal", "uniform"]

PRIORS: dict[PriorName, Prior] = {
    "normal": Prior(lambda noise, size: noise.normal("latent", size), slerp),
    "uniform": Prior(lambda noise, size: noise.uniform("latent", size) * 2 - 1, straight),
}


def one_at_a_time(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a net to each sample (n, ...) alone: a picture of many images then takes the memory of one.

    Training may fit into memory by a small batch, and what is only looked at should ask for no more.
    """
    return torch.cat([function(*one) for one in zip(*(tensor.split(1) for tensor in tensors), strict=True)])


def interpolation(
    decode: Callable[..., Tensor],
    latents: Tensor,
    labels: Tensor | None = None,
    *,
    walk: Walk = slerp,
    rows: int = 6,
    columns: int = 9,
) -> Tensor:
    """Return images of walks from one latent to another, one walk a row, in one class where labels are given.

    They are decoded one at a time.

    Args:
        decode: latents, or latents and labels, to images (n, c, h, w).
        latents: (n, z).
        labels: (n,).
        walk: between two latents.
        rows: walks, n / 2 at most.
        columns: images of a walk.

    Returns:
        (rows, columns, c, h, w).
    """
    rows = min(rows, len(latents) // 2)
    path = walk(latents[:rows], latents[rows : 2 * rows], torch.linspace(0, 1, columns, device=latents.device))
    given = () if labels is None else (labels[:rows].repeat_interleave(columns),)
    return one_at_a_time(decode, path.flatten(0, 1), *given).unflatten(0, (rows, columns))
