"""Layers that several networks share."""

import torch
from torch import Tensor, nn

NORMS = ("batch", "instance", "layer", "none")


def norm(name: str, channels: int) -> nn.Module:
    """A normalization layer for (n, channels, h, w) by name: batch, instance, layer (over c, h, w) or none."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    return nn.Identity()


def as_weights_lie(images: Tensor, net: nn.Module) -> Tensor:
    """(n, c, h, w) in the memory format of the net's convolutions, so that no layer has to mix two."""
    last = all(w.is_contiguous(memory_format=torch.channels_last) for w in net.parameters() if w.ndim == 4)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def doublings(size: int) -> tuple[int, int]:
    """(base, k) with size = base * 2**k and base in 4..7: where a convolutional pyramid starts.

    ValueError where there is no such base (for example 8 * 2**k + odd sizes such as 30 or 33).
    """
    base, steps = size, 0
    while base > 7 and base % 2 == 0:
        base, steps = base // 2, steps + 1
    if not 4 <= base <= 7:
        raise ValueError(f"size {size} is not 4, 5, 6 or 7 times a power of two; set data.size to 16, 28, 32, 64 ...")
    return base, steps
