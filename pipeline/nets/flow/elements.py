"""What a coupling does to one element x, given k numbers for it: an increasing function and its inverse.

Legend: x (n, c, h, w), numbers (k, n, c, h, w), n samples, c channels, h x w pixels, K bins, B a bound.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softmax, softplus


class Element(nn.Module):
    """An increasing function of each element: y and log dy/dx, both (n, c, h, w)."""

    numbers: int  # k

    @abstractmethod
    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, given numbers, to y and log dy/dx."""

    @abstractmethod
    def inverse(self, y: Tensor, numbers: Tensor) -> Tensor:
        """Map y, given numbers, back to x."""


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
    """A monotonic rational-quadratic spline on [-B, B] (Durkan et al., arXiv:1906.04032, section 3.1).

    Outside, and where all numbers are 0, it is the identity. The numbers are widths (K) and heights (K) of the bins
    before a softmax, and the slopes at the K - 1 inner knots before a softplus; the outer slopes are 1, so the
    derivative is continuous everywhere.
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
        """Find the bin in which each element lies: left, width, bottom, height, and the slopes at its ends."""
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
