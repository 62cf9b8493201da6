"""The generator and critic of R3GAN (Huang et al., arXiv:2501.05441, section 4), for any pyramid size.

Residual blocks without norm: inverted bottlenecks with a grouped convolution, whose last convolution begins at
zero and whose others begin smaller the deeper the net (Fixup, Zhang et al., arXiv:1901.09321).

Legend: n samples, z latent dimensions, e dimensions of a label's embedding, c image channels, s image size.
"""

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from pipeline.nets.equalized import SLOPE
from pipeline.nets.layers import as_weights_lie, flattened
from pipeline.nets.resample import Resample
from pipeline.nets.shapes import PyramidShape

GAIN = math.sqrt(2 / (1 + SLOPE**2))  # of the leaky ReLU (He et al., arXiv:1502.01852)
EXPANSION = 2  # a block's inner channels to its outer ones
LINEAR_LAYERS = 3  # convolutions of a block


class Generator(nn.Module):
    """(n, z), labels (n,) -> (n, c, s, s): a learned basis weighted by the latents, then a stage per resolution.

    With classes, an embedding of the label of z dimensions comes behind the latents. The image is linear in the
    last features; in evaluation mode it is cut to [-1, 1].
    """

    def __init__(self, shape: PyramidShape, *, latent: int, blocks: int, group_width: int) -> None:
        super().__init__()
        sizes = shape.widths()
        self.embedding = scaled(nn.Embedding(shape.classes, latent), shape.classes) if shape.classes else None
        inputs = 2 * latent if shape.classes else latent
        self.basis = nn.Parameter(torch.randn(sizes[0], shape.base, shape.base))
        self.project = scaled(nn.Linear(inputs, sizes[0], bias=False), inputs)
        depth = blocks * len(sizes)
        self.stages = nn.ModuleList(stage(now, blocks, group_width, depth) for now in sizes)
        self.transitions = nn.ModuleList(Up(before, after) for before, after in pairwise(sizes))
        self.to_image = scaled(nn.Conv2d(sizes[-1], shape.channels, 1, bias=False), sizes[-1])

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            latents = torch.cat((latents, self.embedding(labels)), dim=1)
        maps = self.project(latents)[:, :, None, None] * self.basis
        maps = self.stages[0](as_weights_lie(maps, self))
        for up, blocks in zip(self.transitions, self.stages[1:], strict=True):
            maps = blocks(up(maps))
        images: Tensor = self.to_image(maps)
        return images if self.training else images.clamp(-1.0, 1.0)


class Critic(nn.Module):
    """(n, c, s, s), labels (n,) -> (n, 1): the generator's mirror; the last map is weighted by a basis and summed.

    With classes, the score is the inner product of the last features with an embedding of the label.
    """

    def __init__(self, shape: PyramidShape, *, blocks: int, group_width: int) -> None:
        super().__init__()
        sizes = shape.widths()[::-1]
        self.from_image = scaled(nn.Conv2d(shape.channels, sizes[0], 1, bias=False), shape.channels)
        depth = blocks * len(sizes)
        self.stages = nn.ModuleList(stage(now, blocks, group_width, depth) for now in sizes)
        self.transitions = nn.ModuleList(Down(before, after) for before, after in pairwise(sizes))
        last = sizes[-1]
        self.basis = scaled(nn.Conv2d(last, last, shape.base, groups=last, bias=False), shape.base**2)
        self.score = scaled(nn.Linear(last, last if shape.classes else 1, bias=False), last)
        # The authors' gain: shape.classes inputs of one-hot labels, and an inner product over all features.
        self.embedding = scaled(nn.Embedding(shape.classes, last), shape.classes, last**-0.5) if shape.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.stages[0](self.from_image(images))
        for down, blocks in zip(self.transitions, self.stages[1:], strict=True):
            maps = blocks(down(maps))
        scores: Tensor = self.score(flattened(self.basis(maps)))
        return scores if self.embedding is None else (scores * self.embedding(labels)).sum(1, keepdim=True)


class Block(nn.Module):
    """x + conv1x1(act(grouped conv3x3(act(conv1x1 x)))): (n, c, h, w) -> the same. depth: blocks of the net."""

    def __init__(self, channels: int, group_width: int, depth: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        groups = math.gcd(inner, max(inner // group_width, 1))
        gain = GAIN * depth ** (-1 / (2 * LINEAR_LAYERS - 2))
        self.expand = scaled(nn.Conv2d(channels, inner, 1), channels, gain)
        self.mix = scaled(nn.Conv2d(inner, inner, 3, 1, 1, groups=groups), 9 * inner // groups, gain)
        self.shrink = scaled(nn.Conv2d(inner, channels, 1, bias=False), inner, 0.0)

    def forward(self, maps: Tensor) -> Tensor:
        inner = leaky_relu(self.mix(leaky_relu(self.expand(maps), SLOPE)), SLOPE)
        return maps + self.shrink(inner)


def stage(channels: int, blocks: int, group_width: int, depth: int) -> nn.Sequential:
    """Build the blocks of one resolution; depth: blocks of the net."""
    return nn.Sequential(*(Block(channels, group_width, depth) for _ in range(blocks)))


class Up(nn.Module):
    """(n, before, h, w) -> (n, after, 2h, 2w): a 1 x 1 convolution where the widths differ, and filtered upsampling."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.change = changed(before, after)
        self.resample = Resample()

    def forward(self, maps: Tensor) -> Tensor:
        return self.resample.up(self.change(maps))


class Down(nn.Module):
    """(n, before, h, w) -> (n, after, h / 2, w / 2): filtered downsampling, then the 1 x 1 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.change = changed(before, after)
        self.resample = Resample()

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.change(self.resample.down(maps))
        return maps


def changed(before: int, after: int) -> nn.Module:
    """Build a 1 x 1 convolution if the number of channels changes, else the identity."""
    return nn.Identity() if before == after else scaled(nn.Conv2d(before, after, 1, bias=False), before)


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear, nn.Embedding)


def scaled(layer: Layer, inputs: int, gain: float = 1.0) -> Layer:
    """Draw a layer's weights from N(0, gain^2 / inputs), in place, and return it; biases become 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(inputs))
    if isinstance(bias := getattr(layer, "bias", None), Tensor):
        nn.init.zeros_(bias)
    return layer
