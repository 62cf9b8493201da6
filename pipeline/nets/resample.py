"""Resampling with a filter, so that nothing aliases (Zhang, arXiv:1904.11486; Karras et al., arXiv:1812.04948).

Legend: n samples, c channels, h x w pixels.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from pipeline.core.precision import without_autocast


def _in_float32(scale: "Callable[[Resample, Tensor], Tensor]") -> "Callable[[Resample, Tensor], Tensor]":
    """Compute a change of size in float32 on a CPU, whatever it is given.

    torch takes the gradient of a strided convolution of each channel by itself number by number in bfloat16: thirty to
    a hundred times as long as in float32 (findings/torch-depthwise-strides-slow-in-bfloat16.sh).
    """

    @wraps(scale)
    def scaled(self: "Resample", images: Tensor) -> Tensor:
        autocast = images.dtype is torch.float32 and torch.is_autocast_enabled("cpu")
        if images.device.type != "cpu" or not (autocast or images.dtype is torch.bfloat16):
            return scale(self, images)
        with without_autocast(images.device):
            return scale(self, images.float()).to(images.dtype)

    return scaled


class Resample(nn.Module):
    """The FIR kernel [1, 3, 3, 1] in both directions, zeros outside the image; the mean of an image stays."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", taps.outer(taps)[None, None], persistent=False)

    @_in_float32
    def up(self, images: Tensor) -> Tensor:
        """Double the size: (n, c, h, w) -> (n, c, 2h, 2w)."""
        return conv_transpose2d(images, 4 * self._kernels(images), stride=2, padding=1, groups=images.shape[1])

    @_in_float32
    def down(self, images: Tensor) -> Tensor:
        """Halve the size: (n, c, h, w) -> (n, c, h / 2, w / 2)."""
        return conv2d(images, self._kernels(images), stride=2, padding=1, groups=images.shape[1])

    def blur(self, images: Tensor, margin: int, gain: float = 1.0) -> Tensor:
        """Apply the filter alone: (n, c, h, w) -> (n, c, h + 2 margin - 3, w + 2 margin - 3)."""
        return conv2d(images, gain * self._kernels(images), padding=margin, groups=images.shape[1])

    def _kernels(self, images: Tensor) -> Tensor:
        return self.kernel.to(images.dtype).expand(images.shape[1], 1, 4, 4)
