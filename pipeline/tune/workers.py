"""Several processes that train one trial together: the one that has the trial, and others that it starts on Ray.

They stay together from one trial to the next, so that only the first waits for their start. (Ray Train inside a trial
would start its workers anew at every rung.) A process that is lost takes the trial's own with it: the trial goes on in
new ones, from its last checkpoint.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.core.world import World, default_device
from pipeline.training.job import Job, Row
from pipeline.training.trainer import train

START_SECONDS = 300.0
WAIT_SECONDS = 30.0  # for the word of processes whose training has ended with an error


class WorkerLostError(Exception):
    """A process that trained a trial is gone, or does not answer."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What each process of a trial gets, and how many there are.

    Attributes:
        workers: processes.
        cpus: of each, and as many threads.
        gpus: of each.
    """

    workers: int
    cpus: int
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """The amounts by Ray's names."""
        return {"CPU": float(self.cpus)} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The amounts of all."""
        return [self.bundle] * self.workers


class Alone:
    """A trial's only process."""

    def train(self, job: Job, note: Callable[[list[Row]], None], stop: Callable[[], bool]) -> None:
        """Train as ``trainer.train`` does."""
        train(job, World(device=default_device()), note, stop)


class Helper:
    """Runs in a process that Ray starts, and trains along."""

    def __init__(self, root: Path, threads: int) -> None:
        import torch

        os.chdir(root)
        torch.set_num_threads(threads)

    def join(self, address: str, rank: int, size: int, stall_seconds: float) -> None:
        """Form a world with the others; blocks until all are there."""
        _join(address, rank, size, stall_seconds)

    def train(self, job: Job) -> None:
        """Train along; where it ends the first process says."""
        train(job, World.current(default_device()), lambda rows: None)


class Together:
    """The processes of a trial, seen from the first one, which starts the others where Ray has reserved room for them.

    Args:
        root: the project's folder.
        share: of each process.
        stall_seconds: without a word from the others for so long, they are taken for lost.
    """

    def __init__(self, root: Path, share: Share, stall_seconds: float) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = ray.util.get_current_placement_group()
        assert place is not None
        self.helpers: list[Any] = [
            ray.remote(Helper)
            .options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(place, bundle),
            )
            .remote(root, share.cpus)
            for bundle in range(1, share.workers)
        ]
        address = f"{ray.util.get_node_ip_address()}:{_free_port()}"  # type: ignore[no-untyped-call]
        joined = [
            helper.join.remote(address, rank, share.workers, stall_seconds)
            for rank, helper in enumerate(self.helpers, start=1)
        ]
        _join(address, 0, share.workers, stall_seconds)
        ray.get(joined, timeout=START_SECONDS)
        self.world = World.current(default_device())

    def train(self, job: Job, note: Callable[[list[Row]], None], stop: Callable[[], bool]) -> None:
        """Train as ``trainer.train`` does, in all processes.

        Args:
            job: what to train.
            note: gets new rows.
            stop: asked at each log window; this process's word counts.

        Raises:
            WorkerLostError: one of the others is gone.
        """
        import ray

        along = [helper.train.remote(job) for helper in self.helpers]
        try:
            train(job, self.world, note, stop)
        except Exception as error:
            # An error of the training is theirs too; if one of them is gone, so is the connection to it.
            ended, left = ray.wait(along, num_returns=len(along), timeout=WAIT_SECONDS)
            if left or any(_is_gone(reference) for reference in ended):
                raise WorkerLostError(str(error)) from error
            raise
        try:
            ray.get(along)
        except ray.exceptions.RayError as error:
            raise WorkerLostError(str(error)) from error


def _is_gone(reference: Any) -> bool:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError:
        return False
    except ray.exceptions.RayError:
        return True
    return False


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("", 0))
        return int(tried.getsockname()[1])


def _join(address: str, rank: int, size: int, stall_seconds: float) -> None:
    import torch.distributed as dist

    backend = "nccl" if default_device().type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=stall_seconds),
    )
