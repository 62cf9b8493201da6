"""What flows through the loop: a batch of images, the clock, and the shape of the data.

Shapes: n samples, c channels, h = w = size.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.core.noise import Noise


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a network must know of the data: channels (1 or 3), size (h = w, pixels), classes (0: none)."""

    channels: int
    size: int
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's share of a global batch.

    images: (n, c, h, w) float in [-1, 1]; labels: (n,) int64 in [0, classes);
    noise: the samples' own random numbers; other: (n, c, h, w), an unpaired second domain.
    shared: what one phase of a turn computed of this batch and a later one may use again, without its graph.
    """

    images: Tensor
    labels: Tensor
    noise: Noise
    other: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def stream(self, name: str) -> "Batch":
        """The same samples with random numbers of another name, so that no two phases share a draw."""
        return replace(self, noise=self.noise.stream(name))


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Progress in images, so that a schedule does not depend on the batch size.

    turn: turns done, for what a paper does at every k-th step (lazy regularization).
    """

    seen: int
    total: int
    turn: int = 0

    @property
    def fraction(self) -> float:
        return min(self.seen / self.total, 1.0)


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (n, c, h, w) in 0..255 to float32 in [-1, 1] on the device; 255 maps to exactly 1."""
    return images.to(device, non_blocking=True).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] to uint8, rounded to nearest: the inverse of ``to_unit_range`` on its image."""
    return images.detach().float().add(1.0).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
