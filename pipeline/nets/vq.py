"""The residual encoder and decoder of VQ-VAE (van den Oord et al., arXiv:1711.00937, section 4.1), for any grid of
codes. They have no normalization, so frozen ones do not drift.

Legend: n samples, c image channels, s image size, d dimensions of a code's vector, g x g grid of codes, w width.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pipeline.nets.initialization import initialize
from pipeline.nets.layers import as_weights_lie, refused_size

LARGEST_GRID = 32  # codes per side at most, if none are asked for


class Encoder(nn.Module):
    """(n, c, s, s) -> (n, d, g, g): strided convolutions of 4 x 4, residual blocks, a projection."""

    def __init__(self, *, channels: int, size: int, grid: int, width: int, dim: int, blocks: int = 2) -> None:
        super().__init__()
        widths = [channels, *_widths(size, grid, width)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(widths[-1], width, 3, 1, 1), *(Residual(width) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, dim, 1))
        initialize(self, _he)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(as_weights_lie(images, self.layers))
        return features


class Decoder(nn.Module):
    """(n, d, g, g) -> (n, c, s, s), unbounded: the encoder mirrored, with transposed convolutions of 4 x 4.

    It does not end with tanh: where most pixels are black it saturates within some steps, and learning stops.
    """

    def __init__(self, *, channels: int, size: int, grid: int, width: int, dim: int, blocks: int = 2) -> None:
        super().__init__()
        self.grid = grid
        widths = [channels, *_widths(size, grid, width)][::-1]
        layers: list[nn.Module] = [nn.Conv2d(dim, width, 3, 1, 1), *(Residual(width) for _ in range(blocks))]
        layers += [nn.ReLU(), nn.Conv2d(width, widths[0], 3, 1, 1)]
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Tensor) -> Tensor:
        images: Tensor = self.layers(as_weights_lie(vectors, self.layers))
        return images


class Residual(nn.Module):
    """(n, w, h, h) -> the same shape: x + conv 1 x 1 (ReLU (conv 3 x 3 (ReLU x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 1)
        self.layers = nn.Sequential(nn.ReLU(), *inner)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.layers(features)
        return out


def default_grid(size: int) -> int:
    """Return the codes per side of an image: its size halved as often as six or more are left.

    Args:
        size: of the image.

    Returns:
        8 where the size is a power of two.

    Raises:
        ValueError: more than LARGEST_GRID would be left.
    """
    grid = _halved(size)
    if grid > LARGEST_GRID:
        what = f"halves to {grid} codes per side, which are too many"
        raise refused_size(size, lambda other: _halved(other) <= LARGEST_GRID, what)
    return grid


def _halved(size: int) -> int:
    while size % 2 == 0 and size >= 12:
        size //= 2
    return size


def _he(layer: Any) -> None:
    """Draw weights as He et al., arXiv:1502.01852: an encoder's layer gives as much as it got.

    With torch's own smaller weights all features begin near one point, and the codes say little about the image.
    """
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _widths(size: int, grid: int, width: int) -> list[int]:
    """Return the channels after each halving from the image's size to the grid's: half the width, then the width.

    Raises ValueError unless the image's size is the grid's times a power of two.
    """
    factor = size // grid
    if factor * grid != size or factor & (factor - 1):
        fitting = ", ".join(str(size >> k) for k in range(size.bit_length()) if not size % (1 << k) and size >> k < 65)
        raise ValueError(f"grid: data.size {size} should be {grid} times 1, 2, 4, 8 ...; set it to {fitting or size}")
    halvings = factor.bit_length() - 1
    return [max(width // 2, 1)] * (halvings > 1) + [width] * (halvings - (halvings > 1))
