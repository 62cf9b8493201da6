"""A world of images whose truth is known: a bright blob at one of eight places on a circle, each equally likely.

Seen by a method it is a distribution of eight modes, the image form of the ring of Gaussians of the GAN
literature (Metz et al., arXiv:1611.02163).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import ArrayStore, Split

MODES = 8
JITTER = 0.25  # pixels, standard deviation of a blob's place
NEAR = 0.18  # root mean square distance, in [-1, 1], within which a sample belongs to a mode


def centres(size: int) -> Tensor:
    """(8, 2): rows and columns of the modes, in pixels."""
    angle = torch.arange(MODES) * (2 * torch.pi / MODES)
    return torch.stack((angle.sin(), angle.cos()), dim=1) * (0.28 * size) + (size - 1) / 2


def blobs(places: Tensor, size: int) -> Tensor:
    """(n, 2) -> (n, 1, size, size) in [-1, 1]: a Gaussian blob at each place."""
    pixels = torch.arange(size, dtype=torch.float32)
    rows, columns = pixels[None, :, None] - places[:, 0, None, None], pixels[None, None] - places[:, 1, None, None]
    square = rows**2 + columns**2
    return (2 * torch.exp(-square / (2 * (0.09 * size) ** 2)) - 1)[:, None]


def ring(count: int, channels: int = 1, size: int = 16, seed: int = 0) -> Split:
    """``count`` images; the label is the mode."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % MODES
    places = centres(size)[labels] + JITTER * torch.randn(count, 2, generator=generator)
    images = ((blobs(places, size) + 1) * 127.5).round().to(torch.uint8).expand(-1, channels, -1, -1)
    array: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return Split(ArrayStore((array,)), labels.numpy())


@dataclass(frozen=True)
class Found:
    """quality: share of samples near a mode; modes: how many were hit; balance: the least frequent mode's share
    of the good samples, times 8 (1: all equally frequent); agreement: share of good samples of their label's mode."""

    quality: float
    modes: int
    balance: float
    agreement: float


def judge(images: Tensor, labels: Tensor) -> Found:
    """images: (n, c, size, size) in [-1, 1]; labels: (n,) as they were asked for."""
    gray = images.mean(1, keepdim=True)
    templates = blobs(centres(images.shape[-1]), images.shape[-1])
    distance = (gray[:, None] - templates[None]).square().mean((2, 3, 4)).sqrt()
    least, nearest = distance.min(1)
    good = least < NEAR
    counts = torch.bincount(nearest[good], minlength=MODES).float()
    total = max(int(good.sum()), 1)
    return Found(
        quality=float(good.float().mean()),
        modes=int((counts > 0.01 * total).sum()),
        balance=float(counts.min() / total * MODES),
        agreement=float((nearest == labels)[good].float().mean()) if good.any() else 0.0,
    )
