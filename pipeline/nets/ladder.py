"""Two convolutional paths between images and a hierarchy of latent maps (Sønderby et al., arXiv:1602.02282, figure 1):
up from the image, and down from the top latents to it.

Legend: n samples, c image channels, s image size, w width, z channels of latents, h = pixels a side of a level's maps.
The levels are counted from the top, whose maps are the smallest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pipeline.nets.layers import NormName, Upsampling, as_weights_lie, doublings, norm, upsample

MAX_FACTOR = 4  # channels grow to at most 4 times the width
SLIGHT = 0.1  # of a block's last weights: it begins near the identity
NEAR_NORMAL = 0.01  # of the weights before means and variances: they begin near 0
BOUND = 10.0  # of logarithms of variances, which approach it

Choose = Callable[[int, Tensor, Tensor], Tensor]
"""A level's number, its latents' mean and log variance given those above, (n or 1, z, h, h) -> latents (n, z, h, h)."""


@dataclass(frozen=True, kw_only=True)
class LadderShape:
    """What both paths are built from.

    Attributes:
        channels: c.
        size: s; ValueError if it is no pyramid's (``layers.doublings``).
        width: w, channels at half the image's size, doubling with each halving.
        latent: z.
        levels: of latents.
        blocks: residual blocks of a level.
        norm_name: normalization inside the blocks.
        upsampling: how the resolution is doubled on the way down.
    """

    channels: int
    size: int
    width: int
    latent: int
    levels: int
    blocks: int
    norm_name: NormName
    upsampling: Upsampling

    def __post_init__(self) -> None:
        if self.levels > doublings(self.size)[1]:
            raise ValueError(f"levels: images of {self.size} pixels have {doublings(self.size)[1]} at most")

    @property
    def widths(self) -> list[int]:
        """Channels of the maps, the smallest maps' first; those of half the image's size are the last."""
        steps = doublings(self.size)[1]
        return [self.width * min(2**k, MAX_FACTOR) for k in reversed(range(steps))]

    @property
    def sizes(self) -> list[int]:
        """Pixels a side of each level's maps."""
        base = doublings(self.size)[0]
        return [base * 2**level for level in range(self.levels)]


class Up(nn.Module):
    """Images (n, c, s, s) -> for each level means and log variances of its latents, (n, 2z, h, h)."""

    def __init__(self, shape: LadderShape) -> None:
        super().__init__()
        widths = [shape.channels, *reversed(shape.widths)]
        self.halve = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(widths))
        self.blocks = nn.ModuleList(_blocks(shape, width) for width in widths[1:])
        self.statistics = nn.ModuleList(_statistics(shape, width) for width in shape.widths[: shape.levels])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, found = as_weights_lie(images, self), list[Tensor]()
        for halve, blocks in zip(self.halve, self.blocks, strict=True):
            maps = blocks(halve(maps))
            found.append(maps)
        return tuple(
            bounded(statistics(maps)) for statistics, maps in zip(self.statistics, reversed(found), strict=False)
        )


class Down(nn.Module):
    """Latents, level after level -> (n, c, s, s), unbounded: what is below a level has seen all latents above it.

    The top latents are standard normal; those of the other levels are normal given the maps that come from above.
    """

    def __init__(self, shape: LadderShape) -> None:
        super().__init__()
        widths = [*shape.widths, shape.channels]
        self.latents = [(shape.latent, size, size) for size in shape.sizes]
        self.start = nn.Parameter(torch.zeros(widths[0], shape.sizes[0], shape.sizes[0]))
        self.priors = nn.ModuleList(_statistics(shape, width) for width in widths[1 : shape.levels])
        self.take = nn.ModuleList(nn.Conv2d(shape.latent, width, 1) for width in widths[: shape.levels])
        self.blocks = nn.ModuleList(_blocks(shape, width) for width in widths[:-1])
        self.enlarge = nn.ModuleList(upsample(shape.upsampling, before, after) for before, after in pairwise(widths))

    def forward(self, choose: Choose) -> Tensor:
        standard = self.start.new_zeros(1, *self.latents[0])
        maps, mean, log_variance = self.start[None], standard, standard
        for level, (blocks, enlarge) in enumerate(zip(self.blocks, self.enlarge, strict=True)):
            if level < len(self.latents):
                if level > 0:
                    mean, log_variance = bounded(self.priors[level - 1](maps)).float().chunk(2, dim=1)
                maps = maps + self.take[level](as_weights_lie(choose(level, mean, log_variance), self))
            maps = enlarge(silu(blocks(maps)))
        return maps


class Residual(nn.Module):
    """(n, w, h, h) -> the same shape: x + conv 3 x 3 (SiLU (norm (conv 3 x 3 (SiLU (norm x)))))."""

    def __init__(self, width: int, norm_name: NormName) -> None:
        super().__init__()
        bias = norm_name == "none"  # else a norm follows, which takes any bias away again
        inner = norm(norm_name, width), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1, bias=bias)
        last = nn.Conv2d(width, width, 3, 1, 1)
        with torch.no_grad():
            last.weight.mul_(SLIGHT)
        self.layers = nn.Sequential(*inner, norm(norm_name, width), nn.SiLU(), last)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = maps + self.layers(maps)
        return out


def bounded(statistics: Tensor) -> Tensor:
    """Return means and log variances (n, 2z, h, h) with log variances between -BOUND and BOUND."""
    mean, log_variance = statistics.chunk(2, dim=1)
    return torch.cat((mean, BOUND * (log_variance / BOUND).tanh()), dim=1)


def _blocks(shape: LadderShape, width: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width, shape.norm_name) for _ in range(shape.blocks)))


def _statistics(shape: LadderShape, width: int) -> nn.Sequential:
    last = nn.Conv2d(width, 2 * shape.latent, 3, 1, 1)
    with torch.no_grad():
        last.weight.mul_(NEAR_NORMAL)
        if last.bias is not None:
            last.bias.zero_()
    return nn.Sequential(nn.SiLU(), last)
