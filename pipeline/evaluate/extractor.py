"""What a feature extractor is: a fixed network on uint8 images, and the protocol that names it exactly.

Shapes: n images, c channels (1 or 3), h, w pixels, d features, k classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class Features:
    """pooled: (n, d) float32, what FID compares; logits: (n, k) float32, what IS scores. On the CPU."""

    pooled: Tensor
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network with fixed weights. network: uint8 (n, 3, h, w) -> pooled, logits; it resizes and normalizes.

    weights_sha256, resize: the part of a score's protocol that two programs can differ in unnoticed.
    """

    name: str
    weights_sha256: str
    resize: str
    network: Callable[[Tensor], tuple[Tensor, Tensor]]
    device: torch.device

    def __call__(self, images: Tensor) -> Features:
        """uint8 (n, c, h, w), c 1 or 3, gray repeated to 3. Anything else raises: [-1, 1] read as [0, 1]
        is the commonest wrong FID."""
        if images.dtype != torch.uint8:
            raise TypeError(f"{self.name}: images must be uint8 in 0..255, got {images.dtype}")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"{self.name}: images must be (n, 1 or 3, h, w), got {tuple(images.shape)}")
        with torch.inference_mode():
            rgb = images.to(self.device).expand(-1, 3, -1, -1)
            pooled, logits = self.network(rgb.contiguous(memory_format=torch.channels_last))
            return Features(pooled=pooled.float().cpu(), logits=logits.float().cpu())

    @property
    def protocol(self) -> dict[str, str]:
        """What must be equal for two scores to be comparable, beside the images."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "resize": self.resize,
            "channels": "gray repeated to 3",
        }


def extract(extractors: Iterable[Extractor], batches: Iterable[Tensor]) -> dict[str, Features]:
    """Every extractor's features of all the batches, in order; each batch (n, c, h, w) uint8 is made once."""
    parts: dict[str, list[Features]] = {}
    known = list(extractors)
    for images in batches:
        for extractor in known:
            parts.setdefault(extractor.name, []).append(extractor(images))
    return {name: _joined(features) for name, features in parts.items()}


def _joined(parts: list[Features]) -> Features:
    return Features(
        pooled=torch.cat([part.pooled for part in parts]), logits=torch.cat([part.logits for part in parts])
    )


def verified(path: Path, sha256: str, remedy: str) -> Path:
    """The weights file, if it is the one that the scores are named after; else UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file. {remedy}")
    found = sha256_of(path)
    if found != sha256:
        raise UserError(f"{path}: its sha256 is {found}, expected {sha256}. {remedy}")
    return path
