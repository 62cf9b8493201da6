"""Differentiable augmentations of what a critic sees, real or generated, each image by its own random numbers.

Legend: n samples, c channels, s image size. Images are in [-1, 1] before and may leave it after.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from pipeline.core.noise import Noise
from pipeline.core.world import World

ADAPT_EVERY = 4  # critic steps between two changes of ADA's strength (Karras et al., section 3.1)
ADA_IMAGES = 100_000  # real images in which the strength can go from 0 to 1; the paper has 500,000 for long trainings


class CriticAugment(nn.Module):
    """Changes images (n, c, s, s) before the critic sees them; this one changes nothing."""

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        """Return the images that the critic sees, (n, c, s, s)."""
        return images

    def logs(self) -> dict[str, Tensor]:
        """Return what is worth logging, by name: 0-d tensors."""
        return {}


class DiffAugment(CriticAugment):
    """Color, translation and cutout (Zhao, Liu, Lin, Zhu, Han, arXiv:2006.10738, section 3.3, all three always on)."""

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        return _cutout(_translated(_colored(images, noise), noise), noise)


class Adaptive(CriticAugment):
    """ADA: each transformation with a probability that rises while the critic overfits (Karras, Aittala, Hellsten,
    Laine, Lehtinen, Aila, "Training generative adversarial networks with limited data", arXiv:2006.06676).

    Of the paper's pipeline: flips, quarter turns, integer shifts, scaling, rotation, anisotropy, fractional
    shifts (one bilinear resampling for all, mirrored at the border), brightness, contrast, and with three
    channels hue and saturation. Without the filtered resampling and the luma flip of the paper.

    Buffers: strength, the probability p; signs and images, what was observed since it last changed.
    """

    strength: Tensor
    signs: Tensor
    images: Tensor
    turns: Tensor

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = target
        for name in ("strength", "signs", "images", "turns"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        geometry = _random_geometry(noise, self.strength, size=images.shape[-1])
        return _recolored(_resampled(images, geometry), noise, self.strength)

    @torch.no_grad()
    def observe(self, scores: Tensor) -> None:
        """Take in the critic's scores of a batch of real images, (n, 1) or (n, outputs): the first one counts."""
        self.signs += scores.float().flatten(1)[:, 0].sign().sum()
        self.images += len(scores)

    @torch.no_grad()
    def adapt(self, world: World) -> None:
        """Raise the strength while the mean sign of real images' scores is above the target, else lower it.

        It acts at every ``ADAPT_EVERY``-th call; a collective operation.
        """
        self.turns += 1
        seen = torch.stack((self.signs, self.images))
        world.average([seen])
        due = self.turns % ADAPT_EVERY == 0
        step = torch.sign(seen[0] / seen[1].clamp(min=1) - self.target) * seen[1] * world.size / ADA_IMAGES
        self.strength += torch.where(due, step, torch.zeros_like(step))
        self.strength.clamp_(0, 1)
        for buffer in (self.signs, self.images):
            buffer.mul_(~due)

    def logs(self) -> dict[str, Tensor]:
        return {"ada_strength": self.strength.clone()}


# By name, made with ADA's target.
AugmentName = Literal["none", "diffaugment", "ada"]

AUGMENTS: dict[AugmentName, Callable[[float], CriticAugment]] = {
    "none": lambda target: CriticAugment(),
    "diffaugment": lambda target: DiffAugment(),
    "ada": Adaptive,
}


def _colored(x: Tensor, noise: Noise) -> Tensor:
    """Brightness +-0.5, saturation times 0..2 (gray images have none), contrast times 0.5..1.5."""
    brightness, saturation, contrast = noise.uniform("color", 3, 1, 1, 1).unbind(1)
    x = x + (brightness - 0.5)
    if x.shape[1] > 1:
        x = torch.lerp(x.mean(1, keepdim=True), x, saturation * 2)
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast + 0.5)


def _translated(x: Tensor, noise: Noise) -> Tensor:
    """By up to an eighth of the size, zeros (gray) coming in."""
    size = x.shape[-1]
    reach = math.ceil(size / 8)
    shift = noise.integers("translation", 2 * reach + 1, 2, 1) - reach  # (n, 2, 1)
    rows, columns = (torch.arange(size, device=x.device) + shift).unbind(1)  # (n, s): where each pixel comes from
    inside = ((rows >= 0) & (rows < size))[:, None, :, None] & ((columns >= 0) & (columns < size))[:, None, None, :]
    sample = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[sample, rows.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None, :]]
    return moved.permute(0, 3, 1, 2) * inside


def _cutout(x: Tensor, noise: Noise) -> Tensor:
    """Set a square of half the size, its centre anywhere, to zero (gray)."""
    size = x.shape[-1]
    half = size // 4
    centre = noise.integers("cutout", size + 1, 2, 1)  # (n, 2, 1)
    away = (torch.arange(size, device=x.device) - centre).float() + 0.5
    near = away.abs() < half
    return x * ~(near[:, 0, None, :, None] & near[:, 1, None, None, :])


def _random_geometry(noise: Noise, p: Tensor, size: int) -> Tensor:
    """(n, 2, 3): affine maps from a pixel of the result to where it is read, in [-1, 1] coordinates."""
    on = noise.uniform("geometry chance", 6) < p
    draw, bell = noise.uniform("geometry", 6), noise.normal("geometry size", 4)
    # Two rotations around the anisotropic scaling, each with the chance that makes "one of them" equal to p.
    turned = noise.uniform("rotation chance", 2) < 1 - (1 - p).sqrt()
    angles = torch.where(turned, (draw[:, 4:6] * 2 - 1) * math.pi, 0.0)
    one = torch.ones_like(draw[:, 0])
    maps = (
        _scaling(torch.where(on[:, 0] & (draw[:, 0] < 0.5), -one, one), one),
        _rotation(torch.where(on[:, 1], (draw[:, 1] * 4).floor() * (math.pi / 2), 0.0)),
        _shift(torch.where(on[:, 2, None], ((draw[:, 2:4] * 2 - 1) * 0.125 * size).round() * (2 / size), 0.0)),
        _both(torch.where(on[:, 3], torch.exp2(0.2 * bell[:, 0]), one)),
        _rotation(angles[:, 0]),
        _anisotropic(torch.where(on[:, 4], torch.exp2(0.2 * bell[:, 1]), one)),
        _rotation(angles[:, 1]),
        _shift(torch.where(on[:, 5, None], 0.125 * bell[:, 2:4] * 2, 0.0)),
    )
    whole = maps[0]
    for one in maps[1:]:
        whole = whole @ one
    return whole[:, :2]


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """(n, 3, 3) with rows (a b c), (d e f), (0 0 1)."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack((a, b, c, d, e, f, zero, zero, one), dim=1).unflatten(1, (3, 3))


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix(x, zero, zero, zero, y, zero)


def _both(factor: Tensor) -> Tensor:
    return _scaling(factor, factor)


def _anisotropic(factor: Tensor) -> Tensor:
    return _scaling(factor, 1 / factor)


def _rotation(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)


def _shift(by: Tensor) -> Tensor:
    one, zero = torch.ones_like(by[:, 0]), torch.zeros_like(by[:, 0])
    return _matrix(one, zero, by[:, 0], zero, one, by[:, 1])


def _resampled(x: Tensor, geometry: Tensor) -> Tensor:
    grid = affine_grid(geometry, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolored(x: Tensor, noise: Noise, p: Tensor) -> Tensor:
    """Brightness N(0, 0.2), contrast 2^N(0, 0.5), and of colors hue U[-pi, pi] and saturation 2^N(0, 1)."""
    on = noise.uniform("color chance", 4, 1, 1, 1) < p
    bell, angle = noise.normal("color", 3, 1, 1, 1), noise.uniform("hue", 1, 1, 1)
    x = x + torch.where(on[:, 0], 0.2 * bell[:, 0], 0.0)
    x = x * torch.where(on[:, 1], torch.exp2(0.5 * bell[:, 1]), 1.0)
    if x.shape[1] != 3:
        return x
    x = _hue_rotated(x, torch.where(on[:, 2], (angle * 2 - 1) * math.pi, 0.0))
    return torch.lerp(x.mean(1, keepdim=True), x, torch.where(on[:, 3], torch.exp2(bell[:, 2]), 1.0))


def _hue_rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Colors turned around the gray axis (Rodrigues' formula); angle: (n, 1, 1, 1)."""
    gray = x.mean(1, keepdim=True)
    across = (x.roll(-1, 1) - x.roll(1, 1)) / math.sqrt(3.0)  # gray axis x color, up to its sign
    return gray + (x - gray) * angle.cos() + across * angle.sin()
