"""Invertible layers with exact log-determinants, and the networks inside them.

Legend: n samples, c channels, h x w pixels, d = c h w dimensions, k numbers per element, B a bound.

A bijection maps x (n, c, h, w) to y and logdet (n,), which is log |det dy/dx| in nats per sample;
``inverse`` maps y back to x. Neither changes its input. Both compute in the input's precision: under
autocast only the networks inside the couplings (conditioners) take the lower one.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, pixel_shuffle, softmax, softplus
from torch.nn.utils.parametrizations import weight_norm

from pipeline.core.batch_norm import BatchStatistics
from pipeline.core.world import World
from pipeline.nets.layers import NormName, as_weights_lie, norm

Shape = tuple[int, int, int]  # c, h, w


class Bijection(nn.Module):
    """An invertible layer."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, c, h, w) -> y, logdet (n,)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """y -> x."""

    def shape_after(self, shape: Shape) -> Shape:
        """The shape of y for that of x."""
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


# From pixels in [0, 1] to what a flow likes.


class Center(Bijection):
    """y = x - 1/2."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - 0.5, x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return y + 0.5


class Logit(Bijection):
    """y = logit(alpha + (1 - 2 alpha) x): no density is lost on what no pixel can be but a margin of alpha."""

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
            raise ValueError(f"levels: an image of {h} x {w} cannot be halved; take fewer levels or another data.size")
        return 4 * c, h // 2, w // 2


# Linear layers.


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
        """Zero mean and unit variance for a batch of which each rank holds an equal share; once."""
        if self.initialized:
            return
        mean = x.mean((0, 2, 3), keepdim=True)
        world.average([mean])
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        world.average([variance])
        self.shift.copy_(-mean)
        self.log_scale.copy_(-(variance.sqrt() + 1e-6).log())
        self.initialized.fill_(True)


def initialize(net: nn.Module, world: World, forward: Callable[[], object]) -> None:
    """Initializes every ActNorm inside ``net`` from what reaches it during ``forward``, those before it first."""
    layers = [module for module in net.modules() if isinstance(module, ActNorm | ConvActNorm)]
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: layer.initialize(inputs[0], world)) for layer in layers
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()


class BatchNorm(Bijection, BatchStatistics):
    """y = (x - mean) / sqrt(variance + eps) (Dinh et al., arXiv:1605.08803, section 3.7): of the batch in
    training, of running averages in evaluation; the inverse takes the running ones in both."""

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
    """y = W x at every pixel, W = P L (U + diag(sign exp(log_diagonal))): the 1 x 1 convolution of
    Kingma and Dhariwal (section 3.2). P and the signs stay as they were drawn; L has a unit diagonal."""

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
        with torch.autocast(x.device.type, enabled=False):
            y = _mix(x, self.permutation @ (lower @ upper))
        return y, _same_for_all(self.log_diagonal, x)

    def inverse(self, y: Tensor) -> Tensor:
        lower, upper = self._triangles()
        with torch.autocast(y.device.type, enabled=False):
            half = torch.linalg.solve_triangular(lower, self.permutation.mT, upper=False, unitriangular=True)
            return _mix(y, torch.linalg.solve_triangular(upper, half, upper=True))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + (self.sign * self.log_diagonal.exp()).diag()


def _same_for_all(log_scales: Tensor, x: Tensor) -> Tensor:
    """logdet (n,) of a layer that scales every pixel and every sample alike."""
    return (log_scales.sum() * (x.shape[2] * x.shape[3])).expand(x.shape[0])


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """weight (c, c) times the channels: a matrix product, which channels-last memory makes one of."""
    return linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)


# What a coupling does to one element x, given k numbers for it: x (n, c, h, w), numbers (k, n, c, h, w).


class Element(nn.Module):
    """An increasing function of each element: y and log dy/dx, both (n, c, h, w)."""

    numbers: int  # k

    @abstractmethod
    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """x, numbers -> y, log dy/dx."""

    @abstractmethod
    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        """y, numbers -> x."""


class TanhAffine(Element):
    """y = x exp(s) + t, s = r tanh(raw) with a scale r learned per channel: Real NVP's."""

    numbers = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rescale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = numbers
        log_scale = self.rescale * raw.tanh()
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        shift, raw = numbers
        return (y - shift) * (-self.rescale * raw.tanh()).exp()


class SigmoidAffine(Element):
    """y = (x + t) (c + (1 - c) sigmoid(s + 2)): Glow's with c = 0, whose scale is at most 1 and at least c.

    With c > 0 the inverse grows by at most 1 / c: it cannot overflow where training pressed a scale towards 0.
    """

    numbers = 2

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = numbers
        log_scale = self._log_scale(raw)
        return (x + shift) * log_scale.exp(), log_scale

    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        shift, raw = numbers
        return y * (-self._log_scale(raw)).exp() - shift

    def _log_scale(self, raw: Tensor) -> Tensor:
        of_sigmoid = logsigmoid(raw + 2.0)
        if self.least == 0.0:
            return of_sigmoid
        return torch.logaddexp(of_sigmoid + math.log1p(-self.least), raw.new_tensor(self.least).log())


class Standardize(Element):
    """y = (x - mean) exp(-log_scale): a normal prior of x, in Glow given the channels that stay."""

    numbers = 2

    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = numbers
        return (x - mean) * (-log_scale).exp(), -log_scale

    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        mean, log_scale = numbers
        return y * log_scale.exp() + mean


class Spline(Element):
    """Monotonic rational-quadratic spline of Durkan et al., arXiv:1906.04032, section 3.1, on [-B, B];
    outside, and where all numbers are 0, the identity.

    numbers: of K bins the widths (K) and heights (K) before a softmax, and the slopes at the K - 1 inner
    knots before a softplus; the outer slopes are 1, so the derivative is continuous everywhere.
    """

    smallest = 1e-3  # of a bin's share of the interval, and of a slope

    def __init__(self, bins: int, bound: float) -> None:
        super().__init__()
        self.bins, self.bound = bins, bound
        self.numbers = 3 * bins - 1

    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        at = _pixels_first(x)
        inside = at.clamp(-self.bound, self.bound)
        left, width, bottom, height, before, after = self._bin_of(inside, _pixels_first(numbers), of_y=False)
        share, slope = (inside - left) / width, height / width
        product = share * (1 - share)
        below = slope + (before + after - 2 * slope) * product
        y = bottom + height * (slope * share.square() + before * product) / below
        rise = after * share.square() + 2 * slope * product + before * (1 - share).square()
        logdet = 2 * slope.log() + rise.log() - 2 * below.log()
        y, logdet = torch.where(inside == at, y, at), torch.where(inside == at, logdet, 0.0)
        return _channels_first(y, x), _channels_first(logdet, x)

    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        at = _pixels_first(y)
        inside = at.clamp(-self.bound, self.bound)
        left, width, bottom, height, before, after = self._bin_of(inside, _pixels_first(numbers), of_y=True)
        slope, above = height / width, inside - bottom
        bend = above * (before + after - 2 * slope)
        a, b, c = height * (slope - before) + bend, height * before - bend, -slope * above
        # The discriminant is never negative but for rounding; this root's form loses no digits where a is small.
        root = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return _channels_first(torch.where(inside == at, root * width + left, at), y)

    def _bin_of(self, at: Tensor, numbers: Tensor, *, of_y: bool) -> list[Tensor]:
        """The bin in which each element lies: left, width, bottom, height, and the slopes at its ends."""
        widths, heights, slopes = numbers.split((self.bins, self.bins, self.bins - 1))
        lefts, bottoms = self._knots(widths), self._knots(heights)
        # so that a number of 0 is a slope of 1
        one = math.log(math.expm1(1 - self.smallest))
        slopes = _between(self.smallest + softplus(slopes + one), 1.0, 1.0)
        inner = (bottoms if of_y else lefts)[1:-1]
        index = (at >= inner).sum(0, keepdim=True)
        columns = (lefts, lefts.diff(dim=0), bottoms, bottoms.diff(dim=0), slopes, slopes[1:])
        return [column.gather(0, index).squeeze(0) for column in columns]

    def _knots(self, raw: Tensor) -> Tensor:
        """(K, m) -> (K + 1, m), increasing from exactly -B to exactly B."""
        shares = self.smallest + (1 - self.smallest * self.bins) * softmax(raw, dim=0)
        return _between(shares[:-1].cumsum(0) * (2 * self.bound) - self.bound, -self.bound, self.bound)


def _between(rows: Tensor, first: float, last: float) -> Tensor:
    """(r, m) -> (r + 2, m), with a row of ``first`` before and one of ``last`` after."""
    row = rows[:1]
    return torch.cat((torch.full_like(row, first), rows, torch.full_like(row, last)))


def _pixels_first(x: Tensor) -> Tensor:
    """(..., n, c, h, w) -> (..., n h w c): what lies in a row in channels-last memory."""
    return x.movedim(-3, -1).flatten(-4)


def _channels_first(flat: Tensor, like: Tensor) -> Tensor:
    """(n h w c) -> (n, c, h, w), the shape of ``like``."""
    n, c, h, w = like.shape
    return flat.view(n, h, w, c).movedim(-1, 1)


# Couplings: a part of the elements stays, and is what the others' numbers are computed from.


class Coupling(Bijection):
    """The second half of the channels changes given the first, or (swap) the first given the second."""

    def __init__(self, conditioner: nn.Module, element: Element, *, swap: bool = False) -> None:
        super().__init__()
        self.conditioner, self.element, self.swap = conditioner, element, swap

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, x = self._halves(x)
        y, logdet = self.element(x, _numbers(self, given))
        return self._joined(given, y), logdet.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        given, y = self._halves(y)
        return self._joined(given, self.element.inverse(y, _numbers(self, given)))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.swap else (first, second)

    def _joined(self, given: Tensor, other: Tensor) -> Tensor:
        return torch.cat((other, given) if self.swap else (given, other), dim=1)


class Checkerboard(Bijection):
    """The pixels of one colour of a checkerboard change given those of the other, of which pixel (0, 0) is
    one if ``stays`` is 0 (arXiv:1605.08803, figure 3)."""

    def __init__(self, conditioner: nn.Module, element: Element, *, stays: int) -> None:
        super().__init__()
        self.conditioner, self.element, self.stays = conditioner, element, stays

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self._mask(x)
        y, logdet = self.element(x, _numbers(self, x * mask))
        return torch.where(mask, x, y), torch.where(mask, 0.0, logdet).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        mask = self._mask(y)
        return torch.where(mask, y, self.element.inverse(y, _numbers(self, y * mask)))

    def _mask(self, x: Tensor) -> Tensor:
        """(h, w), true where a pixel stays."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        return (rows[:, None] + columns) % 2 == self.stays


def _numbers(coupling: Coupling | Checkerboard, given: Tensor) -> Tensor:
    """(k, n, c, h, w) in the precision of ``given``."""
    raw = coupling.conditioner(given).to(given.dtype)
    return raw.unflatten(1, (-1, coupling.element.numbers)).movedim(2, 0)


# Conditioners: (n, c, h, w) -> (n, outputs, h, w), zero at first, so that every coupling begins near the identity.


class ConvZeros(nn.Conv2d):
    """A convolution that begins at zero, its outputs multiplied by exp(3 gain) (Glow's released code)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(outputs))
        set_to_zero(self)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        scale = (3.0 * self.gain).exp()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], self.bias * scale)


class ConvActNorm(nn.Conv2d):
    """A convolution and the ActNorm of its outputs, in one pass over them."""

    def __init__(self, channels: int, outputs: int, size: int) -> None:
        super().__init__(channels, outputs, size, padding=size // 2, bias=False)
        self.actnorm = ActNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.actnorm.log_scale.exp().flatten()
        shift = self.actnorm.shift.flatten()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift * scale)

    def initialize(self, x: Tensor, world: World) -> None:
        """As ActNorm's."""
        self.actnorm.initialize(super().forward(x), world)


class ConvNet(nn.Module):
    """3 x 3, 1 x 1, 3 x 3 convolutions and ReLU (arXiv:1807.03039, section 4), each hidden one with ActNorm."""

    def __init__(self, channels: int, outputs: int, *, width: int, actnorm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, size in ((channels, 3), (width, 1)):
            plain = nn.Conv2d(before, width, size, padding=size // 2)
            convolution = ConvActNorm(before, width, size) if actnorm else plain
            nn.init.normal_(convolution.weight, 0.0, 0.05)
            layers += [convolution, nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, ConvZeros(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ResNet(nn.Module):
    """Pre-activation residual blocks of two 3 x 3 convolutions between an entry of ``entry`` x ``entry`` and
    an exit of 1 x 1. weighted: weight normalization of every convolution but the last."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        blocks: int,
        norm_name: NormName,
        entry: int,
        weighted: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        made = _weight_normalized if weighted else nn.Conv2d
        self.entry = made(channels, width, entry, padding=entry // 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(norm(norm_name, width), nn.ReLU(), made(width, width, 3, padding=1)),
                *(norm(norm_name, width), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                made(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        last = set_to_zero(nn.Conv2d(width, outputs, 1))
        self.exit = nn.Sequential(norm(norm_name, width), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.exit(x)
        return y


def set_to_zero(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, of which every weight and bias is 0 now."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _weight_normalized(channels: int, outputs: int, size: int, *, padding: int) -> nn.Conv2d:
    convolution: nn.Conv2d = weight_norm(nn.Conv2d(channels, outputs, size, padding=padding))
    return convolution


# Whole flows.


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
        """d."""
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
        """latents (n, d), labels (n,) -> x (n, c, h, w)."""
        parts = latents.split([math.prod(shape) for shape in self.shapes], dim=1)
        leaving = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        x = leaving[-1] if self.prior is None else self.prior.inverse(leaving[-1], labels)
        x = self.levels[-1].inverse(as_weights_lie(x, self))
        for level, part in zip(self.levels[-2::-1], leaving[-2::-1], strict=True):
            x = level.inverse(torch.cat((x, part), dim=1))
        return x
