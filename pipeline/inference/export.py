"""A trained method as one module, from seeds and labels to images: what is published as a loadable model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.batch import Batch
from pipeline.core.noise import Noise
from pipeline.inference.weights import Trained, load_weights


class Sampler(nn.Module):
    """forward: seeds (n,) int64, labels (n,) int64 -> (n, c, h, w) float32 in [-1, 1].

    The noise belongs to the sample, so a seed gives the same image in a batch of any size.
    Exports with torch.export; holds the nets that sampling needs and no others.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.method = trained.method
        self.spec = trained.spec
        self.nets = nn.ModuleDict({name: trained.nets[name] for name in trained.method.sampled})
        self.requires_grad_(False).eval()

    def forward(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """One image per seed."""
        shape = (seeds.shape[0], self.spec.channels, self.spec.size, self.spec.size)
        images = torch.zeros(shape, device=seeds.device)
        return self.method.sample(self.nets, Batch(images=images, labels=labels, noise=Noise(seed=0, ids=seeds)))

    def examples(self, count: int) -> dict[str, Tensor]:
        """Return inputs of ``forward`` by name."""
        return {"seeds": torch.arange(count), "labels": torch.zeros(count, dtype=torch.int64)}


class Translator(nn.Module):
    """forward: images (n, c, h, w) float32 in [-1, 1] of the first domain -> the same in the second."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.method = trained.method
        self.spec = trained.spec
        self.nets = nn.ModuleDict({name: trained.nets[name] for name in trained.method.sampled})
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """One image per image; noise, if the method has any, by the image's place in the batch."""
        ids = torch.arange(images.shape[0], device=images.device)
        return self.method.sample(self.nets, Batch(images=images, labels=ids * 0, noise=Noise(seed=0, ids=ids)))

    def examples(self, count: int) -> dict[str, Tensor]:
        """Return inputs of ``forward`` by name."""
        return {"images": torch.zeros(count, self.spec.channels, self.spec.size, self.spec.size)}


def load_sampler(weights: Path) -> Sampler | Translator:
    """On the CPU, where the exported model will be loaded again."""
    trained = load_weights(weights)
    return Translator(trained) if "other" in trained.method.needs else Sampler(trained)
