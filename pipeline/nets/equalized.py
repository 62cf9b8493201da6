"""Layers whose weights are scaled at each use, and what goes with them (Karras et al., arXiv:1710.10196).

Legend: n samples, c channels, h x w pixels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

SLOPE = 0.2  # of the leaky ReLU
HE = math.sqrt(2.0)  # the gain before a rectifier
GROUP = 4  # neighbouring samples whose deviation the critic sees
_EPSILON = 1e-8


class EqualizedConv2d(nn.Conv2d):
    """A convolution with weights from N(0, 1), scaled at each use by He's constant gain / sqrt(inputs).

    So Adam, whose steps do not know a weight's scale, moves all layers at one relative rate (section 4.1).
    """

    def __init__(
        self, before: int, after: int, kernel: int, *, gain: float = HE, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2 if stride == 1 else 0, bias=bias)
        self.scale = gain / math.sqrt(before * kernel**2)
        nn.init.normal_(self.weight)
        _constant(self.bias, 0.0)

    def forward(self, images: Tensor) -> Tensor:
        return self._conv_forward(images, self.weight * self.scale, self.bias)


class EqualizedLinear(nn.Linear):
    """An equalized linear layer (n, before) -> (n, after); rate: how much slower than others it learns (below 1)."""

    def __init__(self, before: int, after: int, *, gain: float = HE, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__(before, after)
        self.scale, self.rate = gain * rate / math.sqrt(before), rate
        nn.init.normal_(self.weight, 0.0, 1.0 / rate)
        _constant(self.bias, bias / rate)

    def forward(self, features: Tensor) -> Tensor:
        return linear(features, self.weight * self.scale, self.bias * self.rate)


def _constant(bias: Tensor | None, value: float) -> None:
    if bias is not None:
        nn.init.constant_(bias, value)


def pixel_norm(features: Tensor) -> Tensor:
    """Scale every pixel's channels, or every sample's features, to unit root mean square (section 4.2)."""
    return features * (features.square().mean(1, keepdim=True) + _EPSILON).rsqrt()


def minibatch_stddev(maps: Tensor, group: int = GROUP) -> Tensor:
    """Append a channel with the mean deviation inside the sample's group (section 3): (n, c, h, w) -> (n, c + 1, h, w).

    A group is ``group`` samples in a row, so that workers with contiguous shares of a batch form the same groups
    as one process does; where the batch is no multiple of it, the largest common divisor of both.
    """
    size = math.gcd(len(maps), group)
    groups = maps.unflatten(0, (-1, size))
    variances = (groups - groups.mean(1, keepdim=True)).square().mean(1)  # faster than var
    deviations = (variances + _EPSILON).sqrt()
    channel = deviations.mean((1, 2, 3)).repeat_interleave(size)[:, None, None, None]
    return torch.cat((maps, channel.expand(-1, 1, *maps.shape[2:])), dim=1)
