"""The images that are scored: sample i depends on (seed, i) and the real images, on no batch size.

Sample i is drawn beside the real image number i of a seeded shuffle: its label, so that labels come
in the real images' frequencies, and the image itself, for methods that translate.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.core.batch import Batch, to_uint8, to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.dataset import Split
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.inference.weights import Trained

# a float32 tanh is within this of [-1, 1]; a wrong range is not
_SLACK = 1e-3


def shuffled(size: int, count: int, seed: int) -> Tensor:
    """(count,) int64: rows of a split of ``size`` in a seeded order, from the start again where count > size."""
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
    """The real images at ``rows``, each once and in order, sample i with noise number i.

    truncation: bound of normal latents. other: a second domain, of which sample i gets image i, from the
    start again where it has fewer.
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


def samples(trained: "Trained", like: Iterator[Batch]) -> Iterator[Tensor]:
    """One uint8 (n, c, h, w) batch on the CPU per batch of ``like``.

    Raises UserError if the nets give NaN or infinity, ValueError if the method breaks its contract of [-1, 1].
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


def mean_scores(trained: "Trained", real: Iterator[Batch]) -> dict[str, float]:
    """The means of the method's own per-sample scores over the real images; NaN raises ValueError."""
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
