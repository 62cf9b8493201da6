"""Samples of trained methods: sample i depends on (seed, i) and the real images, on no batch size.

Sample i is drawn beside the real image number i of a seeded shuffle: its label, so that labels come
in the real images' frequencies, and the image itself, for methods that translate.

A sample that is not finite is drawn anew with further random numbers of its own, up to DRAWS times in all, and counted:
what is scored then is the model's distribution where it is finite. If more than MOST_REDRAWN of the samples had to be
drawn anew, they are refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.method import Method
from pipeline.core.noise import Noise
from pipeline.data.dataset import Split
from pipeline.errors import UserError
from pipeline.inference.diagnosis import not_finite
from pipeline.inference.weights import Trained, load_weights

SLACK = 1e-3  # a float32 tanh is within this of [-1, 1]; a wrong range is not

DRAWS = 10  # of one sample, the first included
MOST_REDRAWN = 0.1  # of all samples


@dataclass
class Tally:
    """How many samples were made, and how many of them were drawn anew because they were not finite."""

    samples: int = 0
    redrawn: int = 0

    @property
    def too_many(self) -> str | None:
        """Say how many had to be drawn anew, if they are too many to be scored."""
        if self.redrawn > MOST_REDRAWN * self.samples:
            return f"{self.redrawn:,} of {self.samples:,} samples"
        return None


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over images. error: its standard error; None of a single image."""

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """Return the mean of values (n,) of independent images."""
        error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(value=float(values.mean()), error=error)


def load_fitting(path: Path, spec: ImageSpec, device: torch.device | str = "cpu") -> Trained:
    """Load a run's weights and check that they were trained on images of this shape.

    Args:
        path: of the weights.
        spec: of the data at hand.
        device: where the nets go.

    Returns:
        The method with its averaged nets, in evaluation mode.

    Raises:
        UserError: the file is damaged or foreign, or its images' channels, size or classes are others.
    """
    trained = load_weights(path, device)
    refuse_other_images(trained, spec, str(path.parent))
    return trained


def refuse_other_images(trained: Trained, spec: ImageSpec, source: str) -> None:
    """Raise UserError unless a model was trained on images of the shape of the data at hand.

    Args:
        trained: the model.
        spec: of the data.
        source: where the model comes from, for the message.

    Raises:
        UserError: channels, size or classes differ.
    """
    if trained.spec != spec:
        raise UserError(f"{source}: trained on {trained.spec}, but out/data has {spec}. Run `dvc repro`.")


def shuffled(size: int, count: int, seed: int) -> Tensor:
    """Return (count,) int64: rows of a split of ``size`` in a seeded order, from the start again if count > size."""
    rows = torch.arange(size)
    order = Noise(seed, rows).stream("evaluate").uniform("order").argsort(stable=True)
    return order[torch.arange(count) % size]


def drawn_beside(method: Method | type[Method], otherwise: str) -> str:
    """Return the split beside whose images samples are drawn.

    Args:
        method: that samples.
        otherwise: where its samples are no answers to images that it has seen with their partners.

    Returns:
        "test" of a method that learns from pairs: it has seen what the training images become.
    """
    return "test" if "pair" in method.needs else otherwise


def batches(
    split: Split,
    rows: Tensor,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    truncation: float | None = None,
    other: Split | None = None,
    paired: bool = False,
    numbers: slice = slice(None),
) -> Iterator[Batch]:
    """Iterate over the real images at ``rows``, each once and in order, sample i with noise number i.

    Args:
        split: the real images.
        rows: (n,) int64.
        seed: of the noise.
        batch_size: images at a time; it changes no sample.
        device: where the batches go.
        truncation: bound of normal latents, in standard deviations; None: no bound.
        other: a second domain, of which sample i gets image i, from the start again if it has fewer.
        paired: image i of ``other`` is the partner of image i of ``split``, and comes with it.
        numbers: a contiguous part of the samples, to leave out the others; each keeps its number.

    Yields:
        Batches of at most ``batch_size`` images in [-1, 1].
    """
    target = torch.device(device)
    for ids in torch.arange(len(rows))[numbers].split(batch_size):
        chosen = rows[ids].numpy()
        partners = None if other is None else chosen if paired else (ids % len(other)).numpy()
        yield Batch(
            images=to_unit_range(split.images(chosen), target),
            labels=split.labels_of(chosen).to(target),
            noise=Noise(seed, ids.to(target), truncation=truncation).stream("evaluate"),
            other=None if other is None or partners is None else to_unit_range(other.images(partners), target),
        )


def samples(trained: Trained, like: Iterator[Batch], tally: Tally | None = None) -> Iterator[Tensor]:
    """Sample one batch of images per batch of ``like``.

    Args:
        trained: the method and its weights.
        like: labels, noise and, for methods that translate, images to sample from; on the nets' device.
        tally: is counted up.

    Yields:
        uint8 (n, c, h, w) on the CPU.

    Raises:
        NotFiniteError: a sample is not finite however often it is drawn, or too many had to be drawn anew.
        ValueError: the method breaks its contract of [-1, 1].
    """
    counted = tally or Tally()
    for batch in like:
        yield sample(trained, batch, counted)
    if found := counted.too_many:
        raise not_finite(trained, found)


def sample(trained: Trained, batch: Batch, tally: Tally) -> Tensor:
    """Sample one batch; whoever has sampled them all judges the tally.

    Args:
        trained: the method and its weights.
        batch: labels, noise and, for methods that translate, images to sample from; on the nets' device.
        tally: is counted up.

    Returns:
        uint8 (n, c, h, w) on the CPU.

    Raises:
        NotFiniteError: a sample is not finite however often it is drawn.
        ValueError: the method breaks its contract of [-1, 1].
    """
    with torch.inference_mode():
        images = trained.method.sample(trained.nets, batch)
        spoilt = _spoilt(images)
        if len(spoilt):
            images[spoilt] = _drawn_anew(trained, batch, spoilt)
    if images.abs().max() > 1 + SLACK:
        raise ValueError(f"method '{trained.name}': samples must lie in [-1, 1], got {float(images.abs().max())}")
    tally.samples += len(images)
    tally.redrawn += len(spoilt)
    return to_uint8(images).cpu()


def samples_as_they_are(trained: Trained, like: Iterator[Batch]) -> Iterator[Tensor]:
    """Sample as ``samples`` does, but draw nothing anew: pixels that are not finite are black."""
    for batch in like:
        with torch.inference_mode():
            yield to_uint8(trained.method.sample(trained.nets, batch)).cpu()


def _drawn_anew(trained: Trained, batch: Batch, rows: Tensor) -> Tensor:
    """Return finite images (m, c, h, w) for the batch's samples at ``rows`` (m,), each the first of its further draws
    that is finite."""
    images = torch.full_like(batch.images[rows], torch.nan)
    left = torch.arange(len(rows), device=rows.device)
    for draw in range(2, DRAWS + 1):
        again = batch.take(rows[left]).stream(f"draw {draw}")
        images[left] = trained.method.sample(trained.nets, again)
        left = left[_spoilt(images[left])]
        if not len(left):
            return images
    raise not_finite(trained, f"{len(left):,} of {len(batch):,} samples, in each of {DRAWS} draws,")


def _spoilt(images: Tensor) -> Tensor:
    """(n, c, h, w) -> (m,): the images that hold NaN or infinity."""
    return (~torch.isfinite(images).flatten(1).all(1)).nonzero().flatten()


def has_scores(trained: Trained) -> bool:
    """Tell whether the method may have scores of its own."""
    return type(trained.method).scores is not Method.scores


def scores_of(trained: Trained, real: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
    """Compute the method's own scores of real images.

    Args:
        trained: the method and its weights.
        real: batches of the images, on the nets' device.

    Yields:
        The scores of each batch by name, (n,) float64 on the CPU; {} if the method has none.

    Raises:
        NotFiniteError: a score is not finite for some image.
    """
    for batch in real:
        with torch.inference_mode():
            scores = trained.method.scores(trained.nets, batch)
        for name, values in scores.items():
            if not torch.isfinite(values).all():
                raise not_finite(trained, f"the scores '{name}' of some test images")
        yield {name: values.double().cpu() for name, values in scores.items()}


def mean_scores(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Mean]:
    """Return the means over all images of what ``scores_of`` yields, however they are divided; {} of nothing."""
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {name: Mean.of(torch.cat(values)) for name, values in found.items()}
