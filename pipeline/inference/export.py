"""A trained method as modules that export with torch.export: what is published as a loadable model.

Sampler turns seeds into images, Translator images into images, Encoder images into latents or codes, and Decoder these
into images. Each holds the nets that it reads and no others. Images outside of [-1, 1] are an error in the exported
program too.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.noise import Noise
from pipeline.families.vq import Quantized
from pipeline.inference.encode import plain_batch
from pipeline.inference.generate import SLACK
from pipeline.inference.weights import Trained, load_weights


class Exportable(nn.Module):
    """The nets of a trained method that a task reads, in evaluation mode, without gradients."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.method = trained.method
        self.spec = trained.spec
        self.nets = trained.nets

    @abstractmethod
    def examples(self, count: int) -> dict[str, Tensor]:
        """Return inputs of ``forward`` by name, on the CPU."""

    def settle(self, trained: Trained) -> None:
        """Keep the nets that ``forward`` reads and no others; called once all else is set."""
        self.nets = watched = _Watched(trained.nets)
        device = trained.device
        with torch.inference_mode():
            self(*(value.to(device) for value in self.examples(2).values()))
        self.nets = nn.ModuleDict({name: trained.nets[name] for name in sorted(watched.read)})
        self.requires_grad_(False).eval()


class _Watched(nn.ModuleDict):
    """Remembers which nets are asked for."""

    def __init__(self, nets: nn.ModuleDict) -> None:
        super().__init__(dict(nets.items()))
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> nn.Module:
        self.read.add(key)
        return super().__getitem__(key)


class Sampler(Exportable):
    """forward: seeds (n,) int64, labels (n,) int64 -> (n, c, h, w) float32 in [-1, 1].

    The noise belongs to the sample, so a seed gives the same image in a batch of any size.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__(trained)
        self.settle(trained)

    def forward(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """One image per seed."""
        shape = (seeds.shape[0], self.spec.channels, self.spec.size, self.spec.size)
        images = torch.zeros(shape, device=seeds.device)
        return self.method.sample(self.nets, Batch(images=images, labels=labels, noise=Noise(seed=0, ids=seeds)))

    def examples(self, count: int) -> dict[str, Tensor]:
        return {"seeds": torch.arange(count), "labels": torch.zeros(count, dtype=torch.int64)}


class Translator(Exportable):
    """forward: images (n, c, h, w) float32 in [-1, 1] of one domain -> the same in the other."""

    def __init__(self, trained: Trained, direction: str) -> None:
        super().__init__(trained)
        self.direction = direction
        self.settle(trained)

    def forward(self, images: Tensor) -> Tensor:
        """One image per image."""
        _assert_in_range(images)
        return self.method.translate(self.nets, images, self.direction)

    def examples(self, count: int) -> dict[str, Tensor]:
        return {"images": _zeros(self.spec, count)}


class Encoder(Exportable):
    """forward: images (n, c, h, w) float32 in [-1, 1], labels (n,) int64 -> what they are encoded to, by name."""

    def __init__(self, trained: Trained) -> None:
        super().__init__(trained)
        self.settle(trained)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One latent or grid of codes per image."""
        _assert_in_range(images)
        return self.method.encode(self.nets, plain_batch(images, labels))

    def examples(self, count: int) -> dict[str, Tensor]:
        return {"images": _zeros(self.spec, count), "labels": torch.zeros(count, dtype=torch.int64)}


class Decoder(Exportable):
    """forward: latents or codes (n, ...), labels (n,) int64 -> images (n, c, h, w) float32 in [-1, 1].

    What it takes is the first of the method's ``decodes``.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__(trained)
        self.name, device = trained.method.decodes[0], trained.device
        images, labels = _zeros(trained.spec, 1).to(device), torch.zeros(1, dtype=torch.int64, device=device)
        with torch.inference_mode():
            encoded = trained.method.encode(trained.nets, plain_batch(images, labels))[self.name]
        self.shape, self.dtype = tuple(encoded.shape[1:]), encoded.dtype
        self.settle(trained)

    def forward(self, encoded: Tensor, labels: Tensor) -> Tensor:
        """One image per latent."""
        return self.method.decode(self.nets, {self.name: encoded}, labels)

    def examples(self, count: int) -> dict[str, Tensor]:
        encoded = torch.zeros((count, *self.shape), dtype=self.dtype)
        return {self.name: encoded, "labels": torch.zeros(count, dtype=torch.int64)}


Part = Sampler | Translator | Encoder | Decoder


def load_sampler(weights: Path) -> Sampler | Translator:
    """Load the module that makes images: of a method that translates, in the direction of its samples."""
    trained = load_weights(weights)
    return Translator(trained, trained.method.directions[0]) if trained.method.directions else Sampler(trained)


def parts_of(trained: Trained) -> dict[str, Part]:
    """Return what a model can do by name, first what makes images: "sample" or each direction, "encode", "decode"."""
    method = trained.method
    if method.directions:
        return {direction: Translator(trained, direction) for direction in method.directions}
    parts: dict[str, Part] = {"sample": Sampler(trained)}
    if method.encodes:
        parts["encode"] = Encoder(trained)
    if method.decodes:
        parts["decode"] = Decoder(trained)
    return parts


def export(part: Part) -> torch.export.ExportedProgram:
    """Export for any batch size."""
    examples = part.examples(3)  # a batch of 1 would fix the size at 1
    return torch.export.export(
        part, tuple(examples.values()), dynamic_shapes=[{0: torch.export.Dim.AUTO}] * len(examples)
    )


def describe_parts(trained: Trained, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Return what a loaded model must know to check its inputs, as JSON holds it."""
    spec, method, decoder = trained.spec, trained.method, parts.get("decode")
    about = {"method": trained.name, "seen": trained.seen, "directions": list(method.directions)}
    about |= {"images": [spec.channels, spec.size, spec.size], "classes": spec.classes, "parts": list(parts)}
    if isinstance(decoder, Decoder):
        codes = method.codes if isinstance(method, Quantized) else None
        about["decodes"] = {"name": decoder.name, "shape": list(decoder.shape), "codes": codes}
    return about


def _zeros(spec: ImageSpec, count: int) -> Tensor:
    return torch.zeros(count, spec.channels, spec.size, spec.size)


def _assert_in_range(images: Tensor) -> None:
    torch._assert_async(images.abs().amax() <= 1 + SLACK, "images must lie in [-1, 1]: pixel / 127.5 - 1")
