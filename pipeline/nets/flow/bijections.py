"""Invertible layers with exact log-determinants.

A bijection maps x (n, c, h, w) to y and logdet (n,), which is log |det dy/dx| in nats per sample; ``inverse`` maps y
back to x. Neither changes its input. Both compute in the input's precision: under autocast only the conditioners of
the couplings take the lower one.

Legend: n samples, c channels, h x w pixels.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pixel_shuffle

from pipeline.core.batch_norm import BatchStatistics
from pipeline.core.precision import without_autocast
from pipeline.core.world import World

Shape = tuple[int, int, int]  # c, h, w


class Bijection(nn.Module):
    """An invertible layer."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (n, c, h, w) to y and logdet (n,)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Map y back to x."""

    def shape_after(self, shape: Shape) -> Shape:
        """Return the shape of y for that of x."""
        return shape


class Chain(Bijection):
    """Bijections one after another; none: the identity."""

    def __init__(self, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.layers = cast("list[Bijection]", nn.ModuleList(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for layer in self.layers:
            x, logdet = layer(x)
            total = total + logdet
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y

    def shape_after(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.shape_after(shape)
        return shape


class Center(Bijection):
    """y = x - 1/2."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - 0.5, x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return y + 0.5


class Logit(Bijection):
    """y = logit(alpha + (1 - 2 alpha) x): pixels are squeezed into [alpha, 1 - alpha], so it is finite at 0 and 1."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x
        logdet = math.log(1 - 2 * self.alpha) - p.log() - (-p).log1p()
        return p.log() - (-p).log1p(), logdet.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        return (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Squeeze(Bijection):
    """(n, c, h, w) -> (n, 4c, h/2, w/2): every 2 x 2 block of pixels becomes channels, its diagonal's first.

    So the first half of the channels and the second are pixels of a checkerboard's two colours.
    """

    _corners = ((0, 0), (1, 1), (0, 1), (1, 0))
    _rows_first = (0, 2, 3, 1)  # where the corners (0, 0), (0, 1), (1, 0), (1, 1) are among those

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([x[:, :, i::2, j::2] for i, j in self._corners], dim=1)
        return y, x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        corners = y.chunk(4, dim=1)
        return pixel_shuffle(torch.stack([corners[i] for i in self._rows_first], dim=2).flatten(1, 2), 2)

    def shape_after(self, shape: Shape) -> Shape:
        c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(f"levels: a map of {h} x {w} pixels cannot be halved; take fewer levels")
        return 4 * c, h // 2, w // 2


class ActNorm(Bijection):
    """y = (x + shift) exp(log_scale) per channel (Kingma and Dhariwal, arXiv:1807.03039, section 3.1)."""

    initialized: Tensor  # saved with the weights, so that those of another run are not overwritten

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.shift) * self.log_scale.exp(), _same_for_all(self.log_scale, x)

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def initialize(self, x: Tensor, world: World) -> None:
        """Give the outputs for a batch zero mean and unit variance, once; each rank holds an equal share of it."""
        if self.initialized:
            return
        mean = x.mean((0, 2, 3), keepdim=True)
        world.average([mean])
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        world.average([variance])
        self.shift.copy_(-mean)
        self.log_scale.copy_(-(variance.sqrt() + 1e-6).log())
        self.initialized.fill_(True)


class BatchNorm(Bijection, BatchStatistics):
    """y = (x - mean) / sqrt(variance + eps) (Dinh et al., arXiv:1605.08803, section 3.7).

    Mean and variance are the batch's in training and running averages in evaluation; the inverse takes the running
    ones in both.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self._of_batch(x) if self.training else (self.mean, self.variance)
        inverse = (variance + self.eps).rsqrt()
        return (x - mean) * inverse, _same_for_all(inverse.log(), x)

    def inverse(self, y: Tensor) -> Tensor:
        return y * (self.variance + self.eps).sqrt() + self.mean

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = (moment[None, :, None, None] for moment in self.moments(x, (0, 2, 3)))
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
        return mean, variance


FlowNorm = Literal["actnorm", "batch", "none"]

FLOW_NORMS: dict[FlowNorm, Callable[[int], Bijection]] = {
    "actnorm": ActNorm,
    "batch": BatchNorm,
    "none": lambda channels: Chain([]),
}
"""Normalizing bijections by name, for c channels."""


class InvertibleConv(Bijection):
    """y = W x at every pixel, W = P L (U + diag(sign exp(log_diagonal))), an invertible 1 x 1 convolution.

    Kingma and Dhariwal, arXiv:1807.03039, section 3.2. P and the signs stay as they were drawn; L has a unit diagonal.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal().clone()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        with without_autocast(x.device):
            y = _mix(x, self.permutation @ (lower @ upper))
        return y, _same_for_all(self.log_diagonal, x)

    def inverse(self, y: Tensor) -> Tensor:
        lower, upper = self._triangles()
        with without_autocast(y.device):
            half = torch.linalg.solve_triangular(lower, self.permutation.mT, upper=False, unitriangular=True)
            return _mix(y, torch.linalg.solve_triangular(upper, half, upper=True))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + (self.sign * self.log_diagonal.exp()).diag()


def _same_for_all(log_scales: Tensor, x: Tensor) -> Tensor:
    """logdet (n,) of a layer that scales every pixel and sample by the same factors."""
    return (log_scales.sum() * (x.shape[2] * x.shape[3])).expand(x.shape[0])


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """weight (c, c) times the channels: a matrix product, which channels-last memory makes one of."""
    return linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
