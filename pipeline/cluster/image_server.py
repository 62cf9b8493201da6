"""A batch's images, sent by the driver's node to workers that do not see its folders."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import ImageStore, open_dataset

SERVED_AT_ONCE = 8


def images_from_here(data: str) -> Callable[[str], ImageStore]:
    """Where workers on other nodes ask for a split's images: an actor on the driver's node, which reads them there
    from the folder ``data``."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    server = ray.remote(Images).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=SERVED_AT_ONCE
    )
    return partial(_RemoteStore, server.remote(data))


class Images:
    """Reads images for workers on other nodes."""

    def __init__(self, data: str) -> None:
        self.splits = open_dataset(Path(data)).splits

    def read(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.splits[split].store.prefetch(rows)()


@dataclass(frozen=True)
class _RemoteStore:
    """A split's images on the driver's node."""

    server: Any
    split: str

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        import ray

        reference = self.server.read.remote(self.split, rows)
        return lambda: np.array(ray.get(reference))  # torch takes no memory that is Ray's to write
