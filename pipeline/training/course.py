"""The way that a training goes: its state and its iterations, and nothing of what it leaves behind.

What is reached from here, and only that, decides which checkpoints a training may go on from (dependencies/entries.py).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.config import Run
from pipeline.core import batch_norm
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.loop import Settings, fit
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.augmentation import Augmentation
from pipeline.data.dataset import Dataset, domains
from pipeline.data.feed import Waiting, on_device
from pipeline.data.stream import batches
from pipeline.inference.weights import load_tensors
from pipeline.training.job import Job
from pipeline.training.threads import decide_threads, product_of


def fresh_state(job: Job, spec: ImageSpec, world: World) -> State:
    """Make the state before the first step.

    Args:
        job: the run.
        spec: of its images.
        world: the processes that train together, all of which call this.

    Returns:
        The state, on the world's device.
    """
    run = job.run
    initial = load_tensors(job.initial) if job.initial.exists() else None
    state = State.fresh(job.method, spec, run.seed, world.device, initial=initial, freeze=run.freeze)
    if run.sync_batch_norm:
        batch_norm.synchronize(state.nets, world)
    if job.shard:
        state.shard(world)
    return state


def threads_of(job: Job, spec: ImageSpec, world: World, before: int) -> int:
    """Return how many threads each process of a training computes with; rank 0's word counts. Collective.

    Args:
        job: the run.
        spec: of its images.
        world: the processes that train together.
        before: with how many the training began, where it goes on from a checkpoint; 0: not decided yet.

    Returns:
        As many as it began with; at its beginning what the run's ``threads`` says, of those that this process has.
    """
    available = torch.get_num_threads()
    if not before:
        before = available  # beside a GPU the CPU computes nothing that counts
        if world.device.type == "cpu":
            product = product_of(job.run, job.method, spec) if job.product is None else job.product
            before = decide_threads(job.run, product, processes=world.size, available=available)
    return world.broadcast(before)


def iterations(
    job: Job, state: State, dataset: Dataset, world: World, waiting: Waiting | None = None
) -> Iterator[dict[str, Tensor]]:
    """Train on the run's stream of batches, from where the state is to the end of the budget. Collective.

    Args:
        job: the run.
        state: what training changes, in place.
        dataset: the images.
        world: the processes that train together.
        waiting: gets the seconds spent waiting for images.

    Yields:
        The logs of each iteration, 0-d tensors on the device.
    """
    run = job.run
    yield from fit(
        job.method,
        state,
        stream_of(job, dataset, world, start=state.seen, waiting=waiting),
        world,
        seed=run.seed,
        total=run.images,
        ema_half_life=run.ema_half_life,
        settings=settings_of(run),
    )


def stream_of(
    job: Job, dataset: Dataset, world: World, *, start: int = 0, waiting: Waiting | None = None
) -> Iterator[Batch]:
    """Return a rank's batches of a run without end, augmented, on its device.

    Args:
        job: the run.
        dataset: the images.
        world: the processes that train together.
        start: images seen already, over all ranks.
        waiting: gets the seconds spent waiting for images.

    Returns:
        Batches.
    """
    run = job.run
    first, second = domains(dataset, run.domains, job.method.views)
    share = job.data_on_device / (2 if second else 1)
    return batches(
        on_device(first.splits["train"], world.device, share),
        seed=run.seed,
        batch_size=run.batch_size,
        world=world,
        start=start,
        other=on_device(second.splits["train"], world.device, share) if second else None,
        paired="pair" in job.method.needs,
        augment=Augmentation(flip=run.flip, crop=run.crop, rotation=run.rotation),
        waiting=waiting,
    )


def settings_of(run: Run) -> Settings:
    """Return how a run's steps are computed."""
    return Settings(precision=run.precision, skip_non_finite=run.non_finite == "skip")
