"""The number of threads of a training on the CPU: decided once, by the work of the nets, and kept by a resume.

Another number of threads gives other last bits, so it is no matter of where a training runs. ``auto`` counts, on
torch's meta device, the floating-point operations of one iteration's matrix products and convolutions, and gives each
thread at least WORK of the product in which a typical operation lies. Nets so small that this is one thread have the
same weights whatever the machine's number of cores; larger ones take no more threads than the process has CPUs, and the
number stands in the checkpoints and in train.json.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.config import Run
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method

# Operations of a product for each thread, about half a millisecond of a core. Below it, a thread waits for the others
# longer than it works, and beside a busy process it waits for its core.
WORK = 10**8


def decide_threads(run: Run, product: float, *, processes: int, available: int) -> int:
    """Return how many threads a training computes with.

    Args:
        run: its settings; ``threads`` other than auto is taken as it stands.
        product: the typical one of a sample (``product_of``).
        processes: that share each batch.
        available: threads that this process may use.

    Returns:
        At least 1; for auto at most ``available``.
    """
    if run.threads != "auto":
        return run.threads
    return max(1, min(int(product * max(run.batch_size // processes, 1) / WORK), available))


def product_of(run: Run, method: Method, spec: ImageSpec) -> float:
    """Count the operations of a training's typical product for each sample of a batch.

    Counting loads torch's compiler, and what it compiles with, 200 MiB which a process that trains has no use for: who
    starts it counts.

    Args:
        run: its settings.
        method: what is trained.
        spec: of the images.

    Returns:
        They; 0 where the run itself says how many threads.
    """
    if run.threads != "auto":
        return 0.0
    from pipeline.training.products import typical_product

    return typical_product(method, spec, samples=run.batch_size, images=run.images) / run.batch_size


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with so many threads within the block, and then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
