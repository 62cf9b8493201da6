"""The way of images to the device: all of them there at once, or read ahead of the training.

Where a split fits in a stated share of a GPU's free memory, it lies there as uint8, and a batch is an index. Otherwise
its images are memory-mapped: a split of more than READ_AHEAD bytes, and any on the way to a GPU, is read by a thread
ahead of the training, into pinned memory for a GPU; a small one is in the page cache, and a thread would cost more than
it gains. The images are the same in all cases.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import ArrayStore, Split, ViewStore

READ_AHEAD = 2**29  # bytes


@dataclass
class Waiting:
    """How long training has waited for images.

    Attributes:
        seconds: so far.
    """

    seconds: float = 0.0

    def measure(self, call: Callable[[], Tensor]) -> Tensor:
        """Call, and add what it took."""
        begin = time.perf_counter()
        result = call()
        self.seconds += time.perf_counter() - begin
        return result


@dataclass(frozen=True)
class DeviceStore:
    """Images on the device.

    Attributes:
        images: uint8 (n, h, w, c).
    """

    images: Tensor

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Return a function that takes the images with these numbers: uint8 (n, h, w, c), on the device."""
        return partial(self._take, rows)

    def _take(self, rows: NDArray[np.int64]) -> Tensor:
        return self.images.index_select(0, torch.from_numpy(rows).to(self.images.device, non_blocking=True))


def on_device(split: Split, device: torch.device, share: float) -> Split:
    """Bring a split's images to a GPU if they fit there.

    Args:
        split: its images are on this node, memory-mapped, or elsewhere.
        device: where training takes place.
        share: of the GPU's free memory that they may take.

    Returns:
        The split there, or as it is.
    """
    if isinstance(split.store, ViewStore):  # the images lie there, and are seen as something else there
        there = on_device(replace(split, store=split.store.of), device, share)
        return there.seen_as(split.store.view)
    if device.type != "cuda" or not isinstance(split.store, ArrayStore):
        return split
    free, _ = torch.cuda.mem_get_info(device)
    return moved(split, device) if size_of(split) <= share * free else split


def moved(split: Split, device: torch.device) -> Split:
    """Return the split with its images, and no others of its store, in memory of the device."""
    assert isinstance(split.store, ArrayStore), "on this node"
    rows = np.arange(sum(map(len, split.store.arrays))) if split.rows is None else split.rows
    parts = [torch.from_numpy(split.store.read(part)).to(device) for part in _parts(rows)]
    return replace(split, store=DeviceStore(torch.cat(parts)), rows=None)


def size_of(split: Split) -> int:
    """Return how many bytes the images of a split take; 0 where they are elsewhere."""
    store = split.store.of if isinstance(split.store, ViewStore) else split.store
    return len(split) * store.arrays[0][0].nbytes if isinstance(store, ArrayStore) and len(split) else 0


class Reader:
    """Starts to read images for a device, ahead of the training where that pays; ends with the block that it opens."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split, self.pinned = split, device.type == "cuda"
        here = split.store.of if isinstance(split.store, ViewStore) else split.store
        threaded = isinstance(here, ArrayStore) and (self.pinned or size_of(split) > READ_AHEAD)
        self.pool = ThreadPoolExecutor(1) if threaded else None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Return a function that blocks until the images are read and returns them as ``Split.images`` does."""
        wait = self.split.prefetch(rows)
        return self.pool.submit(self._read, wait).result if self.pool else wait

    def _read(self, wait: Callable[[], Tensor]) -> Tensor:
        images = wait()
        return images.pin_memory() if self.pinned else images


def reader(split: Split | None, device: torch.device) -> AbstractContextManager[Reader | None]:
    """Return a reader of a split, or nothing for no split."""
    return Reader(split, device) if split is not None else nullcontext()


def _parts(rows: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    return np.array_split(rows, max(1, len(rows) // 4096))
