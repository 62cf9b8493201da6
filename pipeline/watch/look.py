"""A look at a training: samples of the averaged nets and as many real images, seen by every measure of the method.

The same latents, labels and real images at every look, so that a curve shows training alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.core.batch import Batch, to_unit_range
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.data.dataset import Dataset
from pipeline.watch import measures
from pipeline.watch.measure import Look, Measure, offered

IMAGES = 256  # samples, and real images, at a look
POOLED = 8  # pixels to which a side is averaged


def values_of(seen: Look, watched: Mapping[str, Measure]) -> dict[str, float]:
    """Return what measures say of a look, by name; what cannot be said is left out."""
    found = {name: measure.compute(seen) for name, measure in watched.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def watch(method: Method, nets: Nets, batches: Iterable[Batch]) -> dict[str, float]:
    """Look at a training, and leave it as it is.

    Args:
        method: what trains.
        nets: all of its nets, those that sampling needs averaged.
        batches: real images, with the labels and noise of the samples.

    Returns:
        The value of each measure of the method, by name.
    """
    return values_of(look_at(method, nets, batches), measures.of(method))


@torch.no_grad()
def look_at(method: Method, nets: Nets, batches: Iterable[Batch]) -> Look:
    """Sample, score and encode in evaluation mode; one batch of images is held at a time.

    Args:
        method: what trains.
        nets: all of its nets, those that sampling needs averaged.
        batches: real images, with the labels and noise of the samples.

    Returns:
        What the measures see.
    """
    parts: dict[str, list[Tensor]] = {}
    has = offered(method)
    with evaluating(nets):
        for batch in batches:
            # The samples of a method that translates are of the other domain.
            real, drawn = batch.images if batch.other is None else batch.other, method.sample(nets, batch)
            finite = drawn.flatten(1).isfinite().all(dim=1)
            samples = drawn[finite]
            found = {"real": pooled(real), "samples": pooled(samples)}
            if "critic" in has:
                found["critic_on_real"] = method.criticize(nets, real, batch.labels)
                found["critic_on_samples"] = method.criticize(nets, samples, batch.labels[finite])
            if "posterior" in has:
                found["posterior_mean"] = method.encode(nets, batch)["mean"]
            for name, tensor in found.items():
                parts.setdefault(name, []).append(tensor.double().cpu())
    return Look(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def pooled(images: Tensor) -> Tensor:
    """Average (n, c, h, w) over areas to (n, c * POOLED * POOLED): what measures of samples see."""
    return adaptive_avg_pool2d(images, POOLED).flatten(1)


def fixed_images(first: Dataset, second: Dataset | None, device: torch.device, *, at_a_time: int) -> Iterator[Batch]:
    """Yield the batches of every look.

    Args:
        first: the data of the run.
        second: its second domain, if it has one.
        device: where the nets are.
        at_a_time: images in a batch at most.

    Yields:
        Real images spread over the training split, whose labels the samples have too, and the samples' noise.
    """
    split, other = first.splits["train"], second.splits["train"] if second else None
    count = min(IMAGES, len(split), len(other) if other else IMAGES)
    for ids in torch.arange(count).split(at_a_time):
        rows = (ids * len(split) // count).numpy()
        of_other = None if other is None else other.images((ids * len(other) // count).numpy())
        yield Batch(
            images=to_unit_range(split.images(rows), device),
            labels=split.labels_of(rows).to(device),
            noise=Noise(0, ids.to(device), "watch"),
            other=None if of_other is None else to_unit_range(of_other, device),
        )


@contextmanager
def evaluating(nets: nn.Module) -> Iterator[None]:
    """Have the nets in evaluation mode in the block, then each module in the mode it was in, frozen ones included."""
    was = [(module, module.training) for module in nets.modules()]
    nets.eval()
    try:
        yield
    finally:
        for module, mode in was:
            module.training = mode
