"""What tests of examinations share: a small run with its data and an extractor, all in files."""

from pathlib import Path
from typing import Any

import torch
from samplers import trained
from torch import Tensor, nn
from toy_data import toy_split

from pipeline.config import Evaluate
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import NewSplit, write_dataset
from pipeline.evaluate.chunks import Materials
from pipeline.evaluate.extraction import prepare_extractors
from pipeline.inference.weights import save_weights
from pipeline.methods import load

SPEC = ImageSpec(channels=1, size=16, classes=10)


class Seen(nn.Module):
    """uint8 (n, 1, 16, 16) to 8 features and 3 logits, of fixed random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.layers(images.float() / 255).mean((2, 3))
        return pooled, self.head(pooled)


def materials(folder: Path, method: str = "vae", **settings: Any) -> Materials:
    """A fresh VAE with scores of its own, taken as trained, beside 48 images, and a program as extractor.

    settings: of ``evaluate``.
    """
    own, prepared, weights = folder / "own", folder / "extractors", folder / "run" / "weights.safetensors"
    for made in (own, prepared, weights.parent):
        made.mkdir(parents=True)
    splits = {}
    for name, count in (("train", 48), ("test", 20)):
        split = toy_split(count)
        images = split.images(range(count)).permute(0, 2, 3, 1).contiguous().numpy()
        splits[name] = NewSplit(split.labels, [images])
    classes = [str(label) for label in range(10)]
    write_dataset(folder / "data", source="toy", spec=SPEC, classes=classes, splits=splits)
    program = torch.export.export(
        Seen().eval(),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),),
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
    )
    torch.export.save(program, own / "seen.pt2")
    known = Evaluate(extractors=["seen.pt2"], path=str(own), **settings)
    prepare_extractors(prepared, folder / "data", known)
    params = {"width": 8}
    nets = trained(load(method, **params), SPEC).nets
    save_weights(weights, name=method, params=params, spec=SPEC, seen=1000, nets=nets, ema=nn.ModuleDict())
    return Materials(data=folder / "data", prepared=prepared, settings=known, weights=weights)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
