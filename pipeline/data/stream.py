"""Shards to an endless, seeded, resumable stream of per-rank batches.

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

NO_AUGMENTATION = Augmentation()
AHEAD = 8  # batches whose images are asked for before they are needed: some may have a long way


def batches(
    split: Split,
    *,
    seed: int,
    batch_size: int,
    world: World,
    start: int = 0,
    other: Split | None = None,
    augment: Augmentation = NO_AUGMENTATION,
) -> Iterator[Batch]:
    """Endless batches of this rank's share of ``batch_size`` images, from position ``start`` (images seen).

    The ranks' shares are disjoint, contiguous parts of the same global batch, so their union does
    not depend on the world's size; ``batch_size`` must be a multiple of it. other: a second domain,
    shuffled by itself, of which each batch brings as many images, unpaired.
    """
    if batch_size % world.size:
        raise ValueError(f"batch_size {batch_size} is not a multiple of the {world.size} workers")
    share = batch_size // world.size
    order = _Order(len(split), seed)
    other_order = _Order(len(other), seed + 1) if other else None
    position = start + world.rank * share
    asked: deque[_Asked] = deque()
    while True:
        while len(asked) <= AHEAD:
            positions = np.arange(position, position + share)
            rows = order[positions]
            second = other.ask(other_order[positions]) if other and other_order else None
            asked.append(_Asked(positions, split.labels_of(rows), split.ask(rows), second))
            position += batch_size
        now = asked.popleft()
        noise = Noise(seed, torch.from_numpy(now.positions).to(world.device))
        yield Batch(
            images=augment(to_unit_range(now.images(), world.device), noise.stream("augment")),
            labels=now.labels.to(world.device),
            noise=noise,
            other=augment(to_unit_range(now.other(), world.device), noise.stream("other")) if now.other else None,
        )


class _Asked(NamedTuple):
    """A batch on its way: its positions in the stream, its labels, and what waits for its images."""

    positions: NDArray[np.int64]
    labels: Tensor
    images: Callable[[], Tensor]
    other: Callable[[], Tensor] | None


class _Order:
    """Position in the stream to row of the split; keeps the shuffles of the last two epochs."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.shuffles: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
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
