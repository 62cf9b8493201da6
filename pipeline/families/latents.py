"""Walks through a latent space with a normal prior."""

from collections.abc import Callable

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, fractions: Tensor) -> Tensor:
    """Spherical interpolation (White, arXiv:1609.04468): (n, z), (n, z), (m,) -> (n, m, z).

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


def interpolation(decode: Callable[[Tensor], Tensor], latents: Tensor, rows: int = 6, columns: int = 9) -> Tensor:
    """(rows, columns, c, h, w): each row walks from one latent to another; latents: (n >= 2 rows, z)."""
    rows = min(rows, len(latents) // 2)
    walk = slerp(latents[:rows], latents[rows : 2 * rows], torch.linspace(0, 1, columns, device=latents.device))
    images = decode(walk.flatten(0, 1))
    return images.unflatten(0, (rows, columns))
