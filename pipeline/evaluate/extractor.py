"""The contract of a feature extractor: a fixed network on uint8 images, and the protocol that names it exactly.

Shapes: n images, c channels (1 or 3), h, w pixels, d features, k classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.files import verified
from pipeline.ingest.download import DownloadError, download


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of n images, on the CPU. pooled: (n, d) float32, for distances; logits: (n, k) float32, of classes."""

    pooled: Tensor
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network with fixed weights.

    network: uint8 (n, 3, h, w) to pooled and logits; it resizes and normalizes.
    weights_sha256, resize: the part of a score's protocol in which two programs can differ unnoticed.
    repeats_gray: whether gray images are repeated to 3 channels; if not, the network takes (n, 1, h, w) too.
    about: what else belongs to the protocol, such as how the weights came about.
    """

    name: str
    weights_sha256: str
    resize: str
    network: Callable[[Tensor], tuple[Tensor, Tensor]]
    device: torch.device
    repeats_gray: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images.

        Args:
            images: uint8 (n, c, h, w), c 1 or 3; gray is repeated to 3 channels, if ``repeats_gray``.

        Returns:
            The features, on the CPU.

        Raises:
            TypeError: the images are not uint8: [-1, 1] read as [0, 1] is the most common wrong FID.
            ValueError: another shape.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"{self.name}: images must be uint8 in 0..255, got {images.dtype}")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"{self.name}: images must be (n, 1 or 3, h, w), got {tuple(images.shape)}")
        with torch.inference_mode():
            seen = images.to(self.device)
            if self.repeats_gray:
                seen = seen.expand(-1, 3, -1, -1)
            pooled, logits = self.network(seen.contiguous(memory_format=torch.channels_last))
            return Features(pooled=pooled.float().cpu(), logits=logits.float().cpu())

    @property
    def protocol(self) -> dict[str, Any]:
        """Return what must be equal for two scores to be comparable, besides the images."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "resize": self.resize,
            "channels": "gray repeated to 3" if self.repeats_gray else "as they are",
            **self.about,
        }


def extract(extractors: Iterable[Extractor], batches: Iterable[Tensor]) -> dict[str, Features]:
    """Return every extractor's features of all the batches (n, c, h, w) uint8, which are iterated over once."""
    parts: dict[str, list[Features]] = {}
    known = list(extractors)
    for images in batches:
        for extractor in known:
            parts.setdefault(extractor.name, []).append(extractor(images))
    return {name: join(features) for name, features in parts.items()}


def join(parts: Sequence[Features]) -> Features:
    """Return the features of several lots of images as those of one."""
    return Features(
        pooled=torch.cat([part.pooled for part in parts]), logits=torch.cat([part.logits for part in parts])
    )


def published(name: str, weights: str | None, url: str, sha256: str) -> Path:
    """Return the file of an extractor's published weights, checked.

    Args:
        name: the extractor's, for messages.
        weights: the file; None: the one in torch.hub's cache, which is downloaded if absent.
        url: where it is published.
        sha256: hex digest of the published file.

    Returns:
        Its path.

    Raises:
        UserError: it can't be downloaded, or is another file.
    """
    remedy = f"Or download {url} yourself and name the file in params.yaml: evaluate.weights."
    if weights:
        return verified(Path(weights), sha256, remedy)
    path = cached(url)
    try:
        download(url, path, sha256=sha256)
    except DownloadError as error:
        raise UserError(f"extractor '{name}': its weights can't be downloaded ({error}). {remedy}") from error
    return verified(path, sha256, remedy)


def cached(url: str) -> Path:
    """Return where torch.hub's cache keeps a published file, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
