"""The data that flow through the loop: a batch of images, the clock, and the shape of the data.

Shapes: n samples, c channels, h = w = size.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.core.noise import Noise


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a network must know about the data.

    Attributes:
        channels: 1 or 3.
        size: height and width in pixels.
        classes: 0 if the images have no labels.
    """

    channels: int
    size: int
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's shard of a global batch.

    Attributes:
        images: (n, c, h, w) float in [-1, 1].
        labels: (n,) int64 in [0, classes).
        noise: the samples' own random numbers.
        other: (n, c, h, w) in [-1, 1], of a second domain: unpaired, or each image's partner if the method needs pairs.
        shared: detached tensors that one phase leaves for a later phase on the same batch, e.g. the generator's images
            for the critic. The one mutable field: ``stream`` passes the same dictionary on, whoever takes an entry
            removes it, and the order of a method's phases is part of what it means.
    """

    images: Tensor
    labels: Tensor
    noise: Noise
    other: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor | slice) -> "Batch":
        """Return some of the samples: each with its own label and random numbers, and nothing that phases share."""
        noise = replace(self.noise, ids=self.noise.ids[rows])
        other = None if self.other is None else self.other[rows]
        return Batch(images=self.images[rows], labels=self.labels[rows], noise=noise, other=other)

    def stream(self, name: str) -> "Batch":
        """Return the same samples with random numbers of another name, so that no two phases share a draw."""
        return replace(self, noise=self.noise.stream(name))


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Progress in images, so that a schedule does not depend on the batch size.

    Attributes:
        seen: images seen, over all ranks.
        total: images in the budget; None in a training that goes the same way whatever its budget
            (``Method.uses_budget``).
        iteration: iterations done, for what a paper does at every k-th step (lazy regularization).
    """

    seen: int
    total: int | None
    iteration: int = 0

    @property
    def fraction(self) -> float:
        """Return progress in [0, 1].

        Raises:
            RuntimeError: the method does not say that it uses the budget. Its checkpoints would then be taken for those
                of a longer training, which they are not.
        """
        if self.total is None:
            raise RuntimeError("a schedule over the whole budget needs uses_budget() to return True")
        return min(self.seen / self.total, 1.0)


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Convert uint8 (n, c, h, w) in 0..255 to float32 in [-1, 1] on the device; 255 becomes exactly 1."""
    return images.to(device, non_blocking=True).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Convert float in [-1, 1] to uint8, clipped and rounded to nearest: the inverse of ``to_unit_range``.

    NaN becomes 0 (black), on every machine: what a cast makes of it differs from one to the next.
    """
    return images.detach().float().add(1.0).mul(127.5).round_().clamp_(0, 255).nan_to_num_(0.0).to(torch.uint8)
