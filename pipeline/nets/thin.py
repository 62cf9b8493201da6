"""Convolutions on the side of the images, whose one or three channels leave a vector unit nearly idle.

From many channels to few, a transposed convolution, which is also the derivative of a convolution with respect to its
images, has few outputs for each of many inputs. On a CPU it runs at a twentieth of the other layers' speed; as a matrix
product whose columns are then added up where they overlap (col2im) it takes a fifth of that time. Both are the same
sums in another order. Layers and parameters are torch's own; only the way of computing differs, in training on a CPU in
float32. Derivatives of any order are right: each is made of operations that torch can differentiate.

Legend: n samples, f features (many), c channels (few), k kernel size, h = w = s pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import conv2d, fold

FEW = 4  # channels at most; with more, torch's own is as fast

Pair = tuple[int, int]


class ThinConv2d(nn.Conv2d):
    """A convolution of images: (n, c, s, s) -> (n, f, s', s')."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if not _is_for_us(self, input, self.in_channels) or not input.requires_grad:
            return self._conv_forward(input, weight, self.bias)
        stride, padding = _pair(self.stride), _pair(self.padding)
        result: Tensor = _Convolution.apply(input, weight, stride, padding)
        return result if self.bias is None else result + self.bias[:, None, None]


class ThinConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that ends in images: (n, f, s, s) -> (n, c, s', s')."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _is_for_us(self, input, self.out_channels) or output_size or any(self.output_padding):
            return super().forward(input, output_size)
        stride, padding = _pair(self.stride), _pair(self.padding)
        kernel = self.weight.shape[2:]
        sizes = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(input.shape[2:], stride, padding, kernel, strict=True)]
        result: Tensor = _Transposed.apply(input, self.weight, stride, padding, (sizes[0], sizes[1]))
        return result if self.bias is None else result + self.bias[:, None, None]


def _pair(value: Any) -> Pair:
    assert isinstance(value, tuple), "given as a number, which torch has made a pair"
    return int(value[0]), int(value[1])


def _is_for_us(layer: nn.Conv2d | nn.ConvTranspose2d, images: Tensor, channels: int) -> bool:
    """Tell whether the other way of computing is the faster one, and allowed."""
    if not layer.training or images.device.type != "cpu" or channels > FEW or layer.groups > 1:
        return False
    if any(step != 1 for step in layer.dilation) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    return images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _channels_last(images: Tensor) -> Tensor:
    """Return images in channels-last memory, also by their strides.

    With one channel the two formats are one, and torch takes what looks like the other for it: a convolution of such
    images then runs at a tenth of its speed.
    """
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)


class _Transposed(torch.autograd.Function):
    """(n, f, h, w), weight (f, c, k, k) -> (n, c, *size)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.padding = stride, padding
        columns = weight.flatten(1).t() @ maps.flatten(2)  # (n, c k k, h w)
        images = fold(columns, size, weight.shape[2:], stride=stride, padding=padding)
        return _channels_last(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = None
        if maps.is_contiguous(memory_format=torch.channels_last):
            gradient = _channels_last(gradient)
        if ctx.needs_input_grad[0]:
            of_maps = conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:  # as of a convolution of the gradient, whose own gradient is the maps
            of_weight = _of_weight(maps, gradient, weight, ctx)
        return of_maps, of_weight, None, None, None


class _Convolution(torch.autograd.Function):
    """(n, c, *size), weight (f, c, k, k) -> (n, f, h, w)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(images, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            size = (images.shape[2], images.shape[3])
            of_images = _Transposed.apply(gradient, weight, ctx.stride, ctx.padding, size)
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(gradient, images, weight, ctx)
        return of_images, of_weight, None, None


def _of_weight(gradient: Tensor, images: Tensor, weight: Tensor, ctx: FunctionCtx) -> Tensor:
    """Return the derivative of a convolution with respect to its weight, (f, c, k, k)."""
    stride, padding = ctx.stride, ctx.padding  # type: ignore[attr-defined]
    mask = [False, True, False]
    _, found, _ = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask
    )
    result: Tensor = found
    return result
