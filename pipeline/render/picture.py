"""The contract of a picture: what it needs of a run, and a function that draws it.

A picture is one file of pipeline/render/pictures, named as params.yaml: render.pictures names it, that defines
``PICTURE``. It is drawn of a trained run: of its nets, its data, its history and its snapshots. A picture of what
metrics see, of features, is a comparison (comparison.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.config.pictures import Render
from pipeline.core.batch import Batch, to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.dataset import Dataset, Split
from pipeline.errors import UserError
from pipeline.inference.directions import Directions, find_directions
from pipeline.inference.generate import batches, drawn_beside, shuffled
from pipeline.inference.onnx import Draw, LatentSampler
from pipeline.inference.weights import Trained
from pipeline.render.curves import Series
from pipeline.render.drawn import Drawn
from pipeline.render.grid import class_columns

Need = Literal[
    "latents",
    "normal",
    "labels",
    "codes",
    "temperature",
    "critic",
    "decodes",
    "directions",
    "pairs",
    "history",
    "snapshots",
    "seeds",
]
DIRECTIONS = 8  # of most change: the explorer's sliders
AT_ONCE = 64  # latents whose gradients are held


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a run.

    Attributes:
        title: for people.
        caption: what one sees in it, and how to read it; ends with a full stop.
        needs: what a run must have (``Subject.offers``); of others the picture is not made.
        draw: images, a figure or a film; None where there is nothing to see. The same subject gives the same pixels.
            It asks the nets for no more than ``Subject.at_a_time`` images at once.
    """

    title: str
    caption: str
    needs: frozenset[Need] = frozenset()
    draw: "Callable[[Subject], Drawn | None]"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained run, as pictures see it.

    Attributes:
        trained: the method and its nets, on the CPU, in evaluation mode; the averaged ones where there are averages.
        data: the images that it was trained on.
        other: its second domain, if it has one.
        settings: of params.yaml.
        at_a_time: images that the nets may take at once.
        history: (images seen, value) points by column of history.csv.
        snapshots: files <images seen>.png.
        seeds: of a run with several, the trained method of each.
    """

    trained: Trained
    data: Dataset
    other: Dataset | None = None
    settings: Render
    at_a_time: int
    history: Series = field(default_factory=dict)
    snapshots: Sequence[Path] = ()
    seeds: Mapping[int, Trained] = field(default_factory=dict)

    @cached_property
    def sampler(self) -> LatentSampler | None:
        """Its sampler as a function of random numbers; None if it has no such form (``LatentSampler``)."""
        try:
            return LatentSampler(self.trained)
        except UserError:
            return None

    @cached_property
    def walked(self) -> Draw | None:
        """The first continuous random numbers that sampling draws, if they are no codes: its latents."""
        draws = self.sampler.draws if self.sampler else []
        return next((draw for draw in draws if draw.kind != "integers" and draw not in self.codes), None)

    @cached_property
    def codes(self) -> tuple[Draw, ...]:
        """What sampling draws, and the method reads back from images: InfoGAN's codes, the grid of a VQ-VAE."""
        draws = self.sampler.draws if self.sampler else []
        return tuple(draw for draw in draws if draw.name in self.trained.method.encodes)

    @cached_property
    def ways(self) -> Directions:
        """The directions of its latents in which images change most, and how much they do along each dimension."""
        assert self.sampler is not None
        return find_directions(self.sampler, DIRECTIONS, min(self.at_a_time, AT_ONCE))

    @cached_property
    def offers(self) -> frozenset[Need]:
        """What pictures may need of it, as far as it has it."""
        method, sampler = self.trained.method, self.sampler
        has: dict[Need, object] = {
            "latents": self.walked,
            "normal": self.walked and self.walked.kind == "normal",
            "labels": sampler and sampler.conditional,
            "codes": self.walked and self.codes,
            "temperature": "temperature" in self.trained.params,
            "critic": method.criticizes,
            "decodes": method.decodes and not method.directions,
            "directions": method.directions and method.decodes and self.other,
            "pairs": "pair" in method.needs and self.other,
            "history": self.history,
            "snapshots": self.snapshots,
            "seeds": self.seeds,
        }
        return frozenset(need for need, there in has.items() if there)

    @property
    def target(self) -> Dataset:
        """The images that samples should be like: of a run that translates, its second domain."""
        return self.other or self.data

    def numbers(self, count: int) -> dict[str, Tensor]:
        """Draw the random numbers of samples 0 to count - 1, by the names of the sampler's inputs."""
        assert self.sampler is not None
        noise = Noise(self.settings.seed, torch.arange(count)).stream("pictures")
        return {draw.name: _drawn(noise, draw) for draw in self.sampler.draws}

    def labels(self, count: int) -> Tensor:
        """Return the classes in turn, (count,) int64; zeros where there are none."""
        return torch.arange(count) % max(self.trained.spec.classes, 1)

    def images_of(self, numbers: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Sample from given random numbers: (n, c, h, w) in [-1, 1]; the labels (n,) count where they matter."""
        sampler = self.sampler
        assert sampler is not None
        given = [numbers[draw.name] for draw in sampler.draws] + ([labels] if sampler.conditional else [])
        with torch.no_grad():
            return in_parts(sampler, self.at_a_time, *given)

    def samples(self, count: int) -> tuple[Tensor, Tensor]:
        """Sample as a user does: images (n, c, h, w) in [-1, 1], and the labels (n,) that they were asked for."""
        found, labels = [], []
        for batch in self.real(drawn_beside(self.trained.method, "train"), count):
            with torch.no_grad():
                found.append(self.trained.method.sample(self.trained.nets, batch))
            labels.append(batch.labels)
        return torch.cat(found), torch.cat(labels)

    def real(self, split: str, count: int) -> Iterator[Batch]:
        """Yield ``count`` real images of a split at most, in a seeded order, with noise; ``other`` where there is one.

        Args:
            split: "train", or "test", which training has not seen.
            count: how many.

        Yields:
            Batches of ``at_a_time`` images at most.
        """
        images, other = self.data.splits[split], self.other.splits[split] if self.other else None
        rows = shuffled(len(images), min(count, len(images)), self.settings.seed)
        at_once = self.at_a_time
        plan: dict[str, Any] = {"batch_size": at_once, "paired": "pair" in self.trained.method.needs}
        yield from batches(images, rows, seed=self.settings.seed, device="cpu", other=other, **plan)

    def shown(self, columns: int, data: Dataset | None = None) -> tuple[Tensor, Tensor]:
        """Return test images for a picture, one class per column.

        Args:
            columns: how many.
            data: of which; None: of the first domain.

        Returns:
            (columns, c, h, w) in [-1, 1], and their labels.
        """
        split: Split = (data or self.data).splits["test"]
        order = shuffled(len(split), len(split), self.settings.seed)
        known = {"rows": 1, "columns": columns, "classes": self.trained.spec.classes}
        chosen = class_columns(torch.from_numpy(split.labels), order, **known).numpy()
        return to_unit_range(split.images(chosen), torch.device("cpu")), split.labels_of(chosen)

    def class_names(self, labels: Tensor) -> list[str]:
        """Return what the classes of these labels (n,) are called."""
        names = self.data.info.get("classes", ())
        return [str(names[label]) if label < len(names) else str(label) for label in labels.tolist()]


def wanted(batch: Batch) -> Tensor:
    """Return a batch's real images (n, c, h, w) of the domain that samples are of."""
    return batch.images if batch.other is None else batch.other


def in_parts(function: Callable[..., Tensor], at_a_time: int, *tensors: Tensor) -> Tensor:
    """Apply a net to some samples (n, ...) at a time, so that a picture of many takes no more memory than training."""
    parts = zip(*(tensor.split(at_a_time) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


def _drawn(noise: Noise, draw: Draw) -> Tensor:
    if draw.kind == "integers":
        assert draw.high is not None
        return noise.integers(draw.name, draw.high, *draw.shape)
    return (noise.normal if draw.kind == "normal" else noise.uniform)(draw.name, *draw.shape)
