"""The residual generator and critic of SNGAN (Miyato et al., arXiv:1802.05957, appendix B.4), for any pyramid size.

Up to 32 pixels every block has the same width, and the critic halves the image twice and goes on with two
blocks of that size (table 3: CIFAR-10 with widths 256 and 128). Above, widths double from the full resolution
down, to 16 times at most, and the critic ends with one block that keeps the size (tables 5 and 6: width 64).

Legend: n samples, z latent dimensions, c image channels, s image size, w width.
"""

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from pipeline.nets.initialization import initialize
from pipeline.nets.layers import (
    Head,
    LabelledImages,
    LabelledNorm,
    NormName,
    Upsampling,
    add_spectral_norm,
    as_weights_lie,
    doublings,
    norm,
    upsample,
)
from pipeline.nets.shapes import CriticShape, GeneratorShape

FLAT_UP_TO = 32  # pixels: every block of one width
MAX_FACTOR = 16


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: a projection, a residual block per doubling, norm, ReLU, convolution, tanh.

    The paper's upsampling is nearest. With classes, each block's norms have the class's scale and shift.
    """

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        base, steps = doublings(shape.size)
        widths = [shape.width * _factor(shape.size, k) for k in reversed(range(steps + 1))]
        self.grid = (widths[0], base, base)
        self.project = nn.Linear(shape.latent, widths[0] * base * base)
        self.blocks = nn.ModuleList(
            UpBlock(before, after, shape.norm_name, shape.upsampling, shape.classes)
            for before, after in pairwise(widths)
        )
        self.norm = norm(shape.norm_name, widths[-1])
        self.output = nn.Conv2d(widths[-1], shape.channels, 3, 1, 1)
        _initialize(self)
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        grid = as_weights_lie(self.project(latents).unflatten(1, self.grid), self)
        for block in self.blocks:
            grid = block(grid, labels)
        images: Tensor = self.output(relu(self.norm(grid)))
        return images.tanh()


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): residual blocks, ReLU, the sum over pixels, a linear layer.

    With classes, the label (n,) is projected on the last features, or concatenated to the images as a map.
    """

    def __init__(self, shape: CriticShape) -> None:
        super().__init__()
        _, steps = doublings(shape.size)
        halvings, others = (min(steps, 2), 2) if shape.size <= FLAT_UP_TO else (steps, 1)
        widths = [shape.width * _factor(shape.size, k) for k in range(halvings + others)]
        self.input = LabelledImages(shape.channels, shape.size, shape.concatenated)
        self.first = FirstBlock(self.input.channels, widths[0])
        self.blocks = nn.ModuleList(
            DownBlock(before, after, shape.norm_name, halve=number < halvings)
            for number, (before, after) in enumerate(pairwise(widths), start=1)
        )
        self.head = Head(widths[-1], shape.outputs, shape.projected)
        _initialize(self)
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        grid = self.first(self.input(images, labels))
        for block in self.blocks:
            grid = block(grid)
        scores: Tensor = self.head(relu(grid).sum((2, 3)), labels)
        return scores


class ResidualBlock(nn.Module):
    """A shortcut, and a residual of two layers."""

    conv1: nn.Module
    conv2: nn.Module

    @property
    def residual(self) -> tuple[nn.Module, nn.Module]:
        """The two layers of the residual."""
        return self.conv1, self.conv2


class UpBlock(ResidualBlock):
    """(n, before, h, w) -> (n, after, 2h, 2w). A 1 x 1 convolution and nearest upsampling commute: the cheap order."""

    def __init__(self, before: int, after: int, norm_name: NormName, upsampling: Upsampling, classes: int) -> None:
        super().__init__()
        self.norm1 = LabelledNorm(norm_name, before, classes)
        self.conv1 = upsample(upsampling, before, after)
        self.norm2 = LabelledNorm(norm_name, after, classes)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, grid: Tensor, labels: Tensor | None) -> Tensor:
        residual = self.conv1(relu(self.norm1(grid, labels)))
        residual = self.conv2(relu(self.norm2(residual, labels)))
        return residual + interpolate(self.shortcut(grid), scale_factor=2.0)


class FirstBlock(ResidualBlock):
    """(n, c, h, w) -> (n, after, h / 2, w / 2), on images: no activation comes first."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, 1, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, images: Tensor) -> Tensor:
        residual = avg_pool2d(self.conv2(relu(self.conv1(images))), 2)
        return residual + self.shortcut(avg_pool2d(images, 2))


class DownBlock(ResidualBlock):
    """(n, before, h, w) -> (n, after, h / 2, w / 2), or of the same h, w."""

    def __init__(self, before: int, after: int, norm_name: NormName, *, halve: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(norm_name, before), norm(norm_name, before)
        self.conv1 = nn.Conv2d(before, before, 3, 1, 1)
        self.conv2 = nn.Conv2d(before, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1) if halve or before != after else nn.Identity()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, grid: Tensor) -> Tensor:
        residual = self.conv1(relu(self.norm1(grid)))
        residual = self.conv2(relu(self.norm2(residual)))
        return self.pool(residual) + self.shortcut(self.pool(grid))


def _initialize(net: nn.Module) -> None:
    """Draw weights by Glorot's uniform rule, with gain sqrt(2) inside residuals (the authors' code)."""
    residuals = [conv for block in net.modules() if isinstance(block, ResidualBlock) for conv in block.residual]
    inside = {layer for conv in residuals for layer in conv.modules()}

    def draw(layer: Any) -> None:
        nn.init.xavier_uniform_(layer.weight, math.sqrt(2.0) if layer in inside else 1.0)

    initialize(net, draw)


def _factor(size: int, k: int) -> int:
    """Channels k halvings below the full resolution, as a multiple of the width."""
    return 1 if size <= FLAT_UP_TO else min(2**k, MAX_FACTOR)
