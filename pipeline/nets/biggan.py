"""The residual generator and critic of BigGAN (Brock et al., arXiv:1809.11096, appendix B), for any pyramid size.

Legend: n samples, z latent dimensions, e dimensions of the shared class embedding, c image channels, s image size.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, relu

from pipeline.core.precision import without_autocast
from pipeline.nets.initialization import LAYERS, initialize
from pipeline.nets.layers import Head, NormName, add_spectral_norm, as_weights_lie, norm
from pipeline.nets.shapes import PyramidShape

INNER = 8  # an attention map is computed from 1 / 8 of the channels, its values are half of them (SAGAN's code)


class Generator(nn.Module):
    """(n, z), labels (n,) -> (n, c, s, s) in [-1, 1].

    Latents are cut into as equal parts as possible: the first makes the smallest map, each other one joins the
    shared embedding of the label (n, e) and with it scales and shifts the norms of a block. Blocks whose maps are
    s / attention wide are followed by self-attention; attention 0: none.
    """

    def __init__(
        self, shape: PyramidShape, *, latent: int, embedding: int, norm_name: NormName, attention: int
    ) -> None:
        super().__init__()
        sizes = shape.widths()[1:]
        self.parts = [latent // (shape.steps + 1) + (k < latent % (shape.steps + 1)) for k in range(shape.steps + 1)]
        self.grid = (sizes[0], shape.base, shape.base)
        self.embedding = nn.Embedding(shape.classes, embedding)
        self.project = nn.Linear(self.parts[0], sizes[0] * shape.base**2)
        self.blocks = nn.ModuleList(
            UpBlock(before, after, embedding + part, norm_name)
            for (before, after), part in zip(pairwise([sizes[0], *sizes]), self.parts[1:], strict=True)
        )
        self.attentions = attentions(
            sizes, [shape.base * 2 ** (k + 1) for k in range(shape.steps)], shape.size, attention
        )
        self.norm = norm(norm_name, sizes[-1])
        self.output = nn.Conv2d(sizes[-1], shape.channels, 3, 1, 1)
        initialize(self, _orthogonal, layers=(*LAYERS, nn.Embedding))
        add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        first, *others = latents.split(self.parts, dim=1)
        label = self.embedding(labels)
        maps = as_weights_lie(self.project(first).unflatten(1, self.grid), self)
        for block, attention, part in zip(self.blocks, self.attentions, others, strict=True):
            maps = attention(block(maps, torch.cat((label, part), dim=1)))
        images: Tensor = self.output(relu(self.norm(maps)))
        return images.tanh()

    def orthogonality(self) -> Tensor:
        """Return the orthogonal penalty of all weights but the shared embedding's, before their spectral norm."""
        weights = [weight for weight in self.parameters() if weight.ndim > 1 and weight is not self.embedding.weight]
        return torch.stack([orthogonal_penalty(weight) for weight in weights]).sum()


def orthogonal_penalty(weight: Tensor) -> Tensor:
    """Return |W W^T * (1 - I)|_F^2 of a weight (outputs, ...) as a matrix W (section 3.1, eq. 3).

    It is 0 if the rows, the filters, are orthogonal, of whatever length. The diagonal is subtracted, so that the
    smaller of W W^T and W^T W serves.
    """
    with without_autocast(weight.device):
        rows = weight.flatten(1)
        product = rows @ rows.t() if len(rows) <= rows.shape[1] else rows.t() @ rows
        return product.square().sum() - rows.square().sum(1).square().sum()


class ConditionalNorm(nn.Module):
    """A norm with scale 1 + A y and shift B y, y the embedding of a sample: (n, c, h, w), (n, f) -> (n, c, h, w)."""

    def __init__(self, name: NormName, channels: int, features: int) -> None:
        super().__init__()
        self.norm = norm(name, channels, affine=False)
        self.scale = nn.Linear(features, channels, bias=False)
        self.shift = nn.Linear(features, channels, bias=False)

    def forward(self, maps: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = 1 + self.scale(embedding), self.shift(embedding)
        return self.norm(maps) * scale[:, :, None, None] + shift[:, :, None, None]


class UpBlock(nn.Module):
    """(n, before, h, w) -> (n, after, 2h, 2w). The shortcut's 1 x 1 convolution and nearest upsampling commute."""

    def __init__(self, before: int, after: int, features: int, norm_name: NormName) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(norm_name, before, features)
        self.conv1 = nn.Conv2d(before, after, 3, 1, 1)
        self.norm2 = ConditionalNorm(norm_name, after, features)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, maps: Tensor, embedding: Tensor) -> Tensor:
        inner = interpolate(relu(self.norm1(maps, embedding)), scale_factor=2.0)
        inner = self.conv2(relu(self.norm2(self.conv1(inner), embedding)))
        return inner + interpolate(self.shortcut(maps), scale_factor=2.0)


class Attention(nn.Module):
    """Self-attention (Zhang et al., arXiv:1805.08318): x + gamma O(softmax(Q^T K) V), gamma 0 at first.

    Keys and values are of the map at half its size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, half = max(channels // INNER, 1), max(channels // 2, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1, bias=False), nn.Conv2d(channels, inner, 1, bias=False)
        self.value, self.out = nn.Conv2d(channels, half, 1, bias=False), nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        query = self.query(maps).flatten(2)  # (n, inner, h w)
        key, value = (max_pool2d(part(maps), 2).flatten(2) for part in (self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(2)  # (n, h w, h w / 4)
        seen = (value @ weights.transpose(1, 2)).unflatten(2, maps.shape[2:])
        return maps + self.gamma * self.out(as_weights_lie(seen, self))


def attentions(channels: list[int], sizes: list[int], size: int, attention: int) -> nn.ModuleList:
    """Build what follows each block, given its maps' channels and sizes: attention, or nothing."""
    here = [attention > 0 and each * attention == size for each in sizes]
    return nn.ModuleList(Attention(c) if yes else nn.Identity() for c, yes in zip(channels, here, strict=True))


class Critic(nn.Module):
    """(n, c, s, s), labels (n,) -> (n, 1): residual blocks, ReLU, the sum over pixels, projection of the label."""

    def __init__(self, shape: PyramidShape, *, attention: int) -> None:
        super().__init__()
        sizes = shape.widths()[1:][::-1]
        self.first = DownBlock(shape.channels, sizes[0], images=True)
        self.blocks = nn.ModuleList(DownBlock(before, after) for before, after in pairwise(sizes))
        self.attentions = attentions(
            sizes, [shape.base * 2**k for k in reversed(range(shape.steps))], shape.size, attention
        )
        self.last = DownBlock(sizes[-1], sizes[-1], halve=False)
        self.head = Head(sizes[-1], 1, shape.classes)
        initialize(self, _orthogonal, layers=(*LAYERS, nn.Embedding))
        add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = self.attentions[0](self.first(images))
        for block, attention in zip(self.blocks, self.attentions[1:], strict=True):
            maps = attention(block(maps))
        scores: Tensor = self.head(relu(self.last(maps)).sum((2, 3)), labels)
        return scores


class DownBlock(nn.Module):
    """(n, before, h, w) -> (n, after, h / 2, w / 2), or of the same h, w; on images no activation comes first.

    Both convolutions have the width of the output (the paper's wide critic).
    """

    def __init__(self, before: int, after: int, *, images: bool = False, halve: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, 1, 1), nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, after, 1) if halve or before != after else nn.Identity()
        self.images, self.halve = images, halve

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.conv2(relu(self.conv1(maps if self.images else relu(maps))))
        if self.halve:  # a 1 x 1 convolution and average pooling commute
            inner, maps = avg_pool2d(inner, 2), avg_pool2d(maps, 2)
        return inner + self.shortcut(maps)


def _orthogonal(layer: Any) -> None:
    """Draw orthogonal weights (Saxe et al., arXiv:1312.6120)."""
    nn.init.orthogonal_(layer.weight)
