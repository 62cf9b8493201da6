"""A small U-Net (Ronneberger, Fischer, Brox, arXiv:1505.04597) that sees the time and the class, as diffusion models
have it (Ho, Jain, Abbeel, arXiv:2006.11239; scale and shift by the embedding as in Dhariwal, Nichol, arXiv:2105.05233).

Legend: n samples, c channels, h = w pixels of a level, f features of the embedding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from pipeline.nets.layers import as_weights_lie, norm

LEVELS = 3  # by default
LEAST = 4  # pixels a side of the smallest map, by default
FREQUENCIES = 16  # of the time's embedding, sine and cosine of each
SLIGHT = 0.1  # of the last convolutions' weights, of the net and of its blocks: images hardly change at first
LOWEST, HIGHEST = 0.25, 32.0  # turns over the whole of time


def default_levels(size: int) -> int:
    """Return how many resolutions images of a size have: 3, or as many as can be halved to 4 pixels or more."""
    levels = 1
    while levels < LEVELS and size % 2 == 0 and size // 2 >= LEAST:
        size, levels = size // 2, levels + 1
    return levels


class UNet(nn.Module):
    """Images (n, c, s, s), times (n,) in [0, 1], labels (n,) in [0, classes] -> (n, c, s, s), small at first.

    The label ``classes`` stands for none. Each level has half the resolution of the one before and up to twice its
    channels.

    Args:
        channels: c.
        size: s.
        classes: of the labels; 0: the net does not see them.
        width: channels of the first level.
        max_width: channels at most.
        levels: resolutions; the size can be halved levels - 1 times.
        blocks: residual blocks of a level, on the way down and on the way up.
        attention: maps of so many pixels a side, and smaller ones, have self-attention; 0: none.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        width: int,
        max_width: int,
        levels: int,
        blocks: int,
        attention: int,
    ) -> None:
        super().__init__()
        self.shape, self.classes = (channels, size, size), classes
        features = 4 * width
        widths = [min(width * 2**level, max_width) for level in range(levels)]
        sees = [size >> level <= attention for level in range(levels)]
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, features), nn.SiLU(), nn.Linear(features, features))
        self.label = nn.Embedding(classes + 1, features) if classes else None
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        before = [width, *widths]
        self.down = nn.ModuleList(Level(before[k], widths[k], features, blocks, sees[k]) for k in range(levels - 1))
        self.middle = Level(before[levels - 1], widths[-1], features, 2 * blocks, sees[-1])
        self.up = nn.ModuleList(
            Level(widths[k + 1] + widths[k], widths[k], features, blocks, sees[k]) for k in reversed(range(levels - 1))
        )
        self.norm, self.last = norm("group", widths[0]), nn.Conv2d(widths[0], channels, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(SLIGHT)

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        embedded = self.time(waves(times))
        if self.label is not None:
            embedded = embedded + self.label(labels)
        embedded = silu(embedded)
        maps = self.first(as_weights_lie(images, self))
        kept = []
        for level in self.down:
            maps = level(maps, embedded)
            kept.append(maps)
            maps = avg_pool2d(maps, 2)
        maps = self.middle(maps, embedded)
        for level in self.up:
            maps = level(torch.cat((interpolate(maps, scale_factor=2.0), kept.pop()), dim=1), embedded)
        velocity: Tensor = self.last(silu(self.norm(maps)))
        return velocity


class Level(nn.Module):
    """(n, before, h, w), (n, f) -> (n, after, h, w): residual blocks, and self-attention after the first of them."""

    def __init__(self, before: int, after: int, features: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(before if k == 0 else after, after, features) for k in range(blocks))
        self.attention = Attention(after) if attention else nn.Identity()

    def forward(self, maps: Tensor, embedded: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            maps = block(maps, embedded)
            if number == 0:
                maps = self.attention(maps)
        return maps


class Block(nn.Module):
    """(n, before, h, w), (n, f) -> (n, after, h, w); near the identity, or a 1 x 1 convolution, at first."""

    def __init__(self, before: int, after: int, features: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm("group", before), nn.Conv2d(before, after, 3, padding=1)
        self.modulate = nn.Linear(features, 2 * after)
        self.norm2, self.conv2 = norm("group", after, affine=False), nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        with torch.no_grad():
            self.conv2.weight.mul_(SLIGHT)

    def forward(self, maps: Tensor, embedded: Tensor) -> Tensor:
        inner = self.norm2(self.conv1(silu(self.norm1(maps))))
        scale, shift = self.modulate(embedded)[:, :, None, None].chunk(2, dim=1)
        return self.shortcut(maps) + self.conv2(silu(torch.addcmul(shift, inner, 1 + scale)))


class Attention(nn.Module):
    """(n, c, h, w) -> the same: self-attention over the pixels, added to its input; the identity at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm("group", channels)
        self.attend, self.project = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, maps: Tensor) -> Tensor:
        query, key, value = self.attend(self.norm(maps)).flatten(2).chunk(3, dim=1)  # (n, c, h w) each
        weights = (query.transpose(1, 2) @ key * query.shape[1] ** -0.5).softmax(2)  # (n, h w, h w)
        seen = (value @ weights.transpose(1, 2)).unflatten(2, maps.shape[2:])
        return maps + self.project(as_weights_lie(seen, self))


def waves(times: Tensor) -> Tensor:
    """Embed times (n,) as sines and cosines of frequencies in geometric progression, (n, 2 FREQUENCIES)."""
    steps = torch.arange(FREQUENCIES, device=times.device) / (FREQUENCIES - 1)
    turns = LOWEST * (HIGHEST / LOWEST) ** steps
    angles = 2 * math.pi * times[:, None] * turns
    return torch.cat((angles.sin(), angles.cos()), dim=1)
