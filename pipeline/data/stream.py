"""Endless, seeded, resumable stream of per-rank batches.

The stream is a function of (seed, position): image number p of the stream is entry p mod n of the
shuffle of epoch p // n. A resume starts at a position; nothing is remembered, nothing replayed.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.batch import Batch, to_unit_range
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.data.augmentation import Augmentation
from pipeline.data.dataset import Split
from pipeline.data.feed import Waiting, reader

NO_AUGMENTATION = Augmentation()
AHEAD = 8  # batches to prefetch: the images may be on another node


def batches(
    split: Split,
    *,
    seed: int,
    batch_size: int,
    world: World,
    start: int = 0,
    other: Split | None = None,
    paired: bool = False,
    augment: Augmentation = NO_AUGMENTATION,
    waiting: Waiting | None = None,
) -> Iterator[Batch]:
    """Yield this rank's share of each global batch, without end.

    The ranks' shares are disjoint, contiguous parts of the same global batch, so their union does not depend on the
    number of workers.

    Args:
        split: the images to train on.
        seed: determines the order of the images and the noise.
        batch_size: images of a global batch; a multiple of the number of workers.
        world: this rank and its device.
        start: position in the stream, in images seen, to start from.
        other: a second domain; each batch brings as many of its images, shuffled independently.
        paired: image i of ``other`` is the partner of image i of ``split``: they come together, augmented alike.
        augment: applied to the images of both domains.
        waiting: gets the seconds spent waiting for images.

    Yields:
        Batches of ``batch_size / world.size`` images in [-1, 1] on the device.

    Raises:
        ValueError: ``batch_size`` is not a multiple of the number of workers, or some images have no partner.
    """
    if batch_size % world.size:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {world.size} workers")
    share = batch_size // world.size
    order, other_order = _orders(split, other, seed, paired)
    position, waiting = start + world.rank * share, waiting or Waiting()
    pending: deque[_PendingBatch] = deque()
    with reader(split, world.device) as images, reader(other, world.device) as others:
        assert images is not None, "the first domain is always there"
        while True:
            while len(pending) <= AHEAD:
                positions = np.arange(position, position + share)
                rows = order[positions]
                second = others.prefetch(other_order[positions]) if others and other_order else None
                pending.append(_PendingBatch(positions, split.labels_of(rows), images.prefetch(rows), second))
                position += batch_size
            yield _arrived(pending.popleft(), seed, world, augment, waiting, paired)


def _orders(split: Split, other: Split | None, seed: int, paired: bool) -> "tuple[_Order, _Order | None]":
    """Return the orders of both domains: that of pairs is one."""
    order = _Order(len(split), seed)
    if paired and (other is None or len(other) != len(split)):
        raise ValueError(f"{len(split)} images and {0 if other is None else len(other)} partners are no pairs")
    return order, order if paired else _Order(len(other), seed + 1) if other else None


def _arrived(
    pending: "_PendingBatch", seed: int, world: World, augment: Augmentation, waiting: Waiting, paired: bool
) -> Batch:
    noise = Noise(seed, torch.from_numpy(pending.positions).to(world.device))
    images = to_unit_range(waiting.measure(pending.images), world.device)
    other = pending.other and to_unit_range(waiting.measure(pending.other), world.device)
    return Batch(
        images=augment(images, noise.stream("augment")),
        labels=pending.labels.to(world.device),
        noise=noise,
        other=None if other is None else augment(other, noise.stream("augment" if paired else "other")),
    )


class _PendingBatch(NamedTuple):
    """A batch whose images are being read.

    Attributes:
        positions: in the stream, int64 (n,).
        labels: int64 (n,).
        images: blocks until the images are read, then returns them as ``Split.images`` does.
        other: likewise for the second domain, if there is one.
    """

    positions: NDArray[np.int64]
    labels: Tensor
    images: Callable[[], Tensor]
    other: Callable[[], Tensor] | None


class _Order:
    """Maps positions in the stream to rows of the split; caches the shuffles of the last two epochs."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.shuffles: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        first, last = int(positions[0]) // self.count, int(positions[-1]) // self.count
        if first == last:  # nearly always: positions are consecutive
            return self._shuffle(first)[positions % self.count]
        epochs = positions // self.count
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._shuffle(int(epoch))[positions[chosen] % self.count]
        return rows

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self.shuffles:
            self.shuffles = {key: value for key, value in self.shuffles.items() if key == epoch - 1}
            self.shuffles[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self.shuffles[epoch]
