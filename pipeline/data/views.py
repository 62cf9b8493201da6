"""Domains that any images give: what a method of pairs translates, computed from what it shall become.

A view is a pure function of the normalized pixels, in integers or in floats that hold them exactly: the same bits on
every device and in any batch. It is computed whenever images are read, so it takes no disk, and other runs see nothing
of it.

Legend: n samples, h = w pixels, c channels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

View = Callable[[Tensor], Tensor]
"""uint8 (n, h, w, c) -> the same shape and type."""

LUMA = (19595, 38470, 7471)  # of red, green and blue, in 65536ths: ITU-R 601-2, as Pillow's mode L has it
STEP = 32  # of 255 levels: the smallest step between two flat areas that is an edge
_TANGENT = (1000, 414)  # tan(22.5 degrees) is 414 / 1000, in whole numbers


def images(pixels: Tensor) -> Tensor:
    """Return the pixels as they are."""
    return pixels


def gray(pixels: Tensor) -> Tensor:
    """Return the luma in every channel."""
    return _luma(pixels).to(torch.uint8).expand(pixels.shape).contiguous()


def edges(pixels: Tensor) -> Tensor:
    """Draw the edges as black lines on white: Sobel's gradient of the luma, thinned to where it is greatest.

    That is the detector of Canny, "A computational approach to edge detection", PAMI 8(6), 1986, without its smoothing
    and with one threshold in the place of two: at the few pixels that images have here, smoothing leaves little.

    Args:
        pixels: uint8 (n, h, w, c).

    Returns:
        0 on an edge and 255 elsewhere, the same in all channels.
    """
    luma = _luma(pixels).squeeze(3).to(torch.float32)  # whole numbers below 2**24: exact
    around = pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across, down = _slope(around), _slope(around.transpose(1, 2)).transpose(1, 2)
    strength = across.square() + down.square()
    before, after = _neighbours(strength, across, down)
    # The gradients on both sides of a sharp step are equal: one of the two is the edge.
    line = (strength > before) & (strength >= after) & (strength >= (4 * STEP) ** 2)
    return torch.where(line, 0, 255).to(torch.uint8)[..., None].expand(pixels.shape).contiguous()


VIEWS: Mapping[str, View] = {"images": images, "gray": gray, "edges": edges}


def _luma(pixels: Tensor) -> Tensor:
    """(n, h, w, c) -> int32 (n, h, w, 1), rounded as Pillow does."""
    if pixels.shape[3] == 1:
        return pixels.to(torch.int32)
    weighed = pixels.to(torch.int32) * torch.tensor(LUMA, dtype=torch.int32, device=pixels.device)
    return (weighed.sum(3, keepdim=True, dtype=torch.int32) + 2**15) >> 16


def _slope(around: Tensor) -> Tensor:
    """(n, h + 2, w + 2) -> (n, h, w): Sobel's operator along the last dimension; a step of k gives 4 k."""
    column = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    return column[:, :, 2:] - column[:, :, :-2]


def _neighbours(strength: Tensor, across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return the strengths (n, h, w) before and after each pixel along its gradient; 0 beyond the border."""
    around, (_, height, width) = pad(strength, (1, 1, 1, 1)), strength.shape

    def at(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    whole, part = _TANGENT
    level, steep = whole * down.abs() <= part * across.abs(), whole * across.abs() < part * down.abs()
    falling = across * down > 0

    def side(sign: int) -> Tensor:
        slanted = torch.where(falling, at(sign, sign), at(-sign, sign))
        return torch.where(level, at(0, sign), torch.where(steep, at(sign, 0), slanted))

    return side(-1), side(1)
