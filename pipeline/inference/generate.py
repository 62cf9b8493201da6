"""Samples of trained methods: sample i depends on (seed, i) and the real images, on no batch size.

Sample i is drawn beside the real image number i of a seeded shuffle: its label, so that labels come
in the real images' frequencies, and the image itself, for methods that translate.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.dataset import Split
from pipeline.errors import UserError
from pipeline.inference.weights import Trained, load_weights

# a float32 tanh is within this of [-1, 1]; a wrong range is not
_SLACK = 1e-3


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
    if trained.spec != spec:
        raise UserError(f"{path.parent}: trained on {trained.spec}, but out/data has {spec}. Run `dvc repro`.")
    return trained


def shuffled(size: int, count: int, seed: int) -> Tensor:
    """Return (count,) int64: rows of a split of ``size`` in a seeded order, from the start again if count > size."""
    rows = torch.arange(size)
    order = Noise(seed, rows).stream("evaluate").uniform("order").argsort(stable=True)
    return order[torch.arange(count) % size]


def batches(
    split: Split,
    rows: Tensor,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    truncation: float | None = None,
    other: Split | None = None,
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

    Yields:
        Batches of at most ``batch_size`` images in [-1, 1].
    """
    target = torch.device(device)
    for ids in torch.arange(len(rows)).split(batch_size):
        chosen = rows[ids].numpy()
        yield Batch(
            images=to_unit_range(split.images(chosen), target),
            labels=split.labels_of(chosen).to(target),
            noise=Noise(seed, ids.to(target), truncation=truncation).stream("evaluate"),
            other=None if other is None else to_unit_range(other.images((ids % len(other)).numpy()), target),
        )


def samples(trained: Trained, like: Iterator[Batch]) -> Iterator[Tensor]:
    """Sample one batch of images per batch of ``like``.

    Args:
        trained: the method and its weights.
        like: labels, noise and, for methods that translate, images to sample from; on the nets' device.

    Yields:
        uint8 (n, c, h, w) on the CPU.

    Raises:
        UserError: the nets give NaN or infinity.
        ValueError: the method breaks its contract of [-1, 1].
    """
    for batch in like:
        with torch.inference_mode():
            images = trained.method.sample(trained.nets, batch)
        if not torch.isfinite(images).all():
            raise UserError(
                f"weights.safetensors: the '{trained.name}' model generates images that are not finite: its training "
                "diverged. Lower its learning rate in params.yaml and train it again."
            )
        if images.abs().max() > 1 + _SLACK:
            raise ValueError(f"method '{trained.name}': samples must lie in [-1, 1], got {float(images.abs().max())}")
        yield to_uint8(images).cpu()


def mean_scores(trained: Trained, real: Iterator[Batch]) -> dict[str, float]:
    """Compute the means of the method's own per-sample scores over real images.

    Args:
        trained: the method and its weights.
        real: batches of the images, on the nets' device.

    Returns:
        The means by name; {} if the method has no scores.

    Raises:
        ValueError: a score is not finite for some image.
    """
    totals: dict[str, float] = {}
    count = 0
    for batch in real:
        with torch.inference_mode():
            scores = trained.method.scores(trained.nets, batch)
        if not scores:
            return {}
        for name, values in scores.items():
            if not torch.isfinite(values).all():
                raise ValueError(f"method '{trained.name}': its score '{name}' is not finite for some images")
            totals[name] = totals.get(name, 0.0) + float(values.double().sum())
        count += len(batch)
    return {name: total / count for name, total in totals.items()}
