"""The growing generator and critic of ProGAN (Karras et al., arXiv:1710.10196), for any pyramid size.

Level 0 is the smallest image (4 to 7 pixels), every level doubles it, the last one has the data's size.
Images are always of the data's size: the generator enlarges what it makes at its level, and the critic
first shrinks what it sees. ``progress`` p is a buffer: at p = k level k is the whole net, and between
k - 1 and k level k fades in with the weight p - (k - 1), so that the nets are continuous in p.

Legend: n samples, z latent dimensions, c image channels, s image size, w width.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from pipeline.nets.equalized import HE, SLOPE, EqualizedConv2d, EqualizedLinear, minibatch_stddev, pixel_norm
from pipeline.nets.layers import as_weights_lie, doublings, flattened
from pipeline.nets.shapes import PyramidShape


class Growing(nn.Module):
    """A net whose depth depends on ``progress``, in [0, steps].

    The number lives in a buffer, so that weights, checkpoints and averages carry it. Which layers run is decided
    by ``level`` and ``fading``, plain attributes that follow the buffer: no device is asked while training.
    """

    progress: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.level, self.fading = steps, 0, False
        self.register_buffer("progress", torch.zeros(()))
        self.register_load_state_dict_post_hook(_follow)  # type: ignore[no-untyped-call]

    def set_progress(self, progress: float) -> None:
        """Set how far the net has grown, a number in [0, steps]."""
        self.progress.fill_(progress)
        self.level = math.ceil(progress)
        self.fading = progress != self.level

    def faded(self, before: Tensor, now: Tensor) -> Tensor:
        """Blend what the level before gives into what this level gives."""
        weight = (self.progress - (self.level - 1)).to(now.dtype)
        return torch.lerp(before, now, weight)


def _follow(net: Any, incompatible: Any) -> None:
    net.set_progress(float(net.progress))


def faded(images: Tensor, progress: float) -> Tensor:
    """Return real images (n, c, s, s) as a generator could make them at that progress.

    They are of the level's resolution and, while the level fades in, mixed with those of the level before.
    """
    _, steps = doublings(images.shape[-1])
    level = math.ceil(progress)
    now = _shrunk(images, steps - level)
    if progress != level:
        before = _enlarged(avg_pool2d(now, 2), 1)
        now = torch.lerp(before, now, progress - (level - 1))
    return _enlarged(now, steps - level)


def _shrunk(images: Tensor, times: int) -> Tensor:
    """Return images of 1 / 2**times of the size."""
    return avg_pool2d(images, 2**times) if times else images


def _enlarged(images: Tensor, times: int) -> Tensor:
    """Return images of 2**times the size."""
    return interpolate(images, scale_factor=float(2**times)) if times else images


class Generator(Growing):
    """(n, z) -> (n, c, s, s): latents of unit length, nearest upsampling, pairs of convolutions with pixel norm.

    The image is linear in the last features; in evaluation mode it is cut to [-1, 1].
    """

    def __init__(self, shape: PyramidShape, *, latent: int) -> None:
        super().__init__(shape.steps)
        sizes = shape.widths()
        self.grid = (sizes[0], shape.base, shape.base)
        self.project = EqualizedLinear(latent, sizes[0] * shape.base**2, gain=HE / 4)  # the gain of the authors' code
        self.first = EqualizedConv2d(sizes[0], sizes[0], 3)
        self.blocks = nn.ModuleList(UpBlock(before, after) for before, after in pairwise(sizes))
        self.to_image = nn.ModuleList(EqualizedConv2d(now, shape.channels, 1, gain=1.0) for now in sizes)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        grid = as_weights_lie(self.project(pixel_norm(latents)).unflatten(1, self.grid), self)
        maps = before = _activated(self.first(_activated(grid)))
        for block in self.blocks[: self.level]:
            before, maps = maps, block(maps)
        images: Tensor = self.to_image[self.level](maps)
        if self.fading:
            images = self.faded(_enlarged(self.to_image[self.level - 1](before), 1), images)
        images = _enlarged(images, self.steps - self.level)
        return images if self.training else images.clamp(-1.0, 1.0)


class UpBlock(nn.Module):
    """(n, before, h, w) -> (n, after, 2h, 2w)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = EqualizedConv2d(before, after, 3), EqualizedConv2d(after, after, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return _activated(self.conv2(_activated(self.conv1(_enlarged(maps, 1)))))


def _activated(maps: Tensor) -> Tensor:
    return pixel_norm(leaky_relu(maps, SLOPE))


class Critic(Growing):
    """(n, c, s, s) -> (n, 1): pairs of convolutions, average pooling, the minibatch's deviation near the end.

    A pixel of level k is 2^(steps - k) pixels of the data wide, and a critic's gradient with respect to these that much
    smaller; the score is larger by as much, so that WGAN-GP's bound on the gradient is as near at every level.
    """

    def __init__(self, shape: PyramidShape) -> None:
        super().__init__(shape.steps)
        sizes = shape.widths()
        self.from_image = nn.ModuleList(EqualizedConv2d(shape.channels, now, 1) for now in sizes)
        self.blocks = nn.ModuleList(DownBlock(before, after) for after, before in pairwise(sizes))
        self.last = EqualizedConv2d(sizes[0] + 1, sizes[0], 3)
        self.hidden = EqualizedLinear(sizes[0] * shape.base**2, sizes[0])
        self.score = EqualizedLinear(sizes[0], 1, gain=1.0)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        images = _shrunk(images, self.steps - self.level)
        maps = self._features(images, self.level)
        for level in reversed(range(self.level)):
            maps = self.blocks[level](maps)
            if self.fading and level == self.level - 1:
                maps = self.faded(self._features(avg_pool2d(images, 2), level), maps)
        maps = leaky_relu(self.last(minibatch_stddev(maps)), SLOPE)
        scores: Tensor = self.score(leaky_relu(self.hidden(flattened(maps)), SLOPE))
        return scores * 2 ** (self.steps - self.progress)

    def _features(self, images: Tensor, level: int) -> Tensor:
        return leaky_relu(self.from_image[level](images), SLOPE)


class DownBlock(nn.Module):
    """(n, before, h, w) -> (n, after, h / 2, w / 2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = EqualizedConv2d(before, before, 3), EqualizedConv2d(before, after, 3)

    def forward(self, maps: Tensor) -> Tensor:
        maps = leaky_relu(self.conv2(leaky_relu(self.conv1(maps), SLOPE)), SLOPE)
        return avg_pool2d(maps, 2)
