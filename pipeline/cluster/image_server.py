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


def start_image_server(data: str) -> Callable[[str], ImageStore]:
    """Start an actor on the driver's node that serves images.

    Args:
        data: the folder of the images there.

    Returns:
        A function from a split's name to a client, which can be sent to any worker. The actor lives as long as a
        client does; Ray restarts it if it dies.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    server = ray.remote(ImageServer).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=SERVED_AT_ONCE
    )
    return partial(_Client, server.remote(data))


class ImageServer:
    """Reads images for workers on other nodes."""

    def __init__(self, data: str) -> None:
        self.splits = open_dataset(Path(data)).splits

    def read(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images ``rows`` (n,) of a split as uint8 (n, h, w, c)."""
        return np.asarray(self.splits[split].store.prefetch(rows)())


@dataclass(frozen=True)
class _Client:
    """A split's images on the driver's node."""

    server: Any
    split: str

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        import ray

        reference = self.server.read.remote(self.split, rows)
        return lambda: np.array(ray.get(reference))  # torch takes no memory that is Ray's to write
