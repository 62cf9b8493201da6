"""What a worker's share is where this process is the worker, without Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.config import Cluster
from pipeline.core.world import default_device
from pipeline.training.threads import computing_with


@contextmanager
def computing_here(cluster: Cluster) -> Iterator[torch.device]:
    """Compute with the CPUs and the GPU that cluster gives a worker, within the block.

    Args:
        cluster: cpus_per_worker are threads at most, of those that this process has; gpus_per_worker: 0 leaves the GPU
            alone.

    Yields:
        The device.
    """
    threads = torch.get_num_threads()
    with computing_with(min(cluster.cpus_per_worker or threads, threads)):
        yield torch.device("cpu") if cluster.gpus_per_worker == 0 else default_device()
