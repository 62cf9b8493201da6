"""Whole flows.

Legend: n samples, c channels, h x w pixels, d = c h w dimensions.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.nets.flow.bijections import Chain, Shape
from pipeline.nets.layers import as_weights_lie


class LearnedPrior(nn.Module):
    """A normal of its own mean and scale per channel (and class, where there are any), as a bijection to N(0, I)."""

    def __init__(self, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.mean = nn.Parameter(torch.zeros(max(classes, 1), channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(max(classes, 1), channels, 1, 1))

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._of(labels)
        logdet = -log_scale.sum((1, 2, 3)) * (x.shape[2] * x.shape[3])
        return (x - mean) * (-log_scale).exp(), logdet.expand(x.shape[0])

    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        mean, log_scale = self._of(labels)
        return y * log_scale.exp() + mean

    def _of(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n or 1, c, 1, 1) each."""
        if self.classes == 0:
            return self.mean, self.log_scale
        assert labels is not None, "a prior per class needs labels"
        return self.mean[labels], self.log_scale[labels]


class MultiScale(nn.Module):
    """A whole flow: after each level but the last the second half of the channels leaves as latents
    (arXiv:1605.08803, section 3.6).

    forward: x (n, c, h, w), labels (n,) -> latents (n, d), logdet (n,). Latents are standard normal
    under the model: what is learned of the prior is a bijection too.
    """

    def __init__(self, shape: Shape, levels: Sequence[Chain], prior: LearnedPrior | None = None) -> None:
        super().__init__()
        self.levels = cast("list[Chain]", nn.ModuleList(levels))
        self.prior = prior
        self.shapes: list[Shape] = []  # of the latents that leave, in order
        for level in levels[:-1]:
            c, h, w = level.shape_after(shape)
            shape = c - c // 2, h, w
            self.shapes.append((c // 2, h, w))
        self.shapes.append(levels[-1].shape_after(shape))

    @property
    def dimensions(self) -> int:
        """The number of latent dimensions d."""
        return sum(math.prod(shape) for shape in self.shapes)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = as_weights_lie(x, self)
        total, latents = x.new_zeros(x.shape[0]), []
        for level, shape in zip(self.levels, self.shapes, strict=True):
            x, logdet = level(x)
            total = total + logdet
            latents.append(x[:, x.shape[1] - shape[0] :])
            x = x[:, : x.shape[1] - shape[0]]
        if self.prior is not None:
            latents[-1], logdet = self.prior(latents[-1], labels)
            total = total + logdet
        return torch.cat([part.flatten(1) for part in latents], dim=1), total

    def inverse(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (n, d) and labels (n,) back to x (n, c, h, w)."""
        parts = latents.split([math.prod(shape) for shape in self.shapes], dim=1)
        leaving = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        x = leaving[-1] if self.prior is None else self.prior.inverse(leaving[-1], labels)
        x = self.levels[-1].inverse(as_weights_lie(x, self))
        for level, part in zip(self.levels[-2::-1], leaving[-2::-1], strict=True):
            x = level.inverse(torch.cat((x, part), dim=1))
        return x
