"""What each Ray worker runs."""

import faulthandler
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.cluster import nodes
from pipeline.training.trainer import DivergedError, Row

# Ray's thread in a worker asks for the GIL a hundred times a second. After Python's 5 ms, training would stop until
# that thread has found a free core; within this time it gets the GIL in a backward pass, which lets go of it.
SWITCH_SECONDS = 0.2
REPORT_SECONDS = 5.0  # Ray drains reports every two seconds, and a report waits for the one before


def worker(config: dict[str, Any]) -> None:
    """Trains this worker's share of ``config["job"]``, or goes on from where an earlier one ended."""
    import ray
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from pipeline.core.world import World
    from pipeline.training.trainer import train

    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(config["threads"])
    job = nodes.unpacked(config["job"], config["parcel"], ray.get)
    if torch.distributed.get_world_size() == 1:
        torch.distributed.destroy_process_group()  # gloo's thread wakes a hundred times a second
    world = World.current(get_device())
    reporter = _Reporter(world, ray_train.report, config["stall_seconds"], _nodes_to_go if config["watched"] else set)
    stop = partial(is_asked_to_stop, config["name"]) if world.rank == 0 else lambda: False
    try:
        train(job, world, reporter, stop, reporter.wants_checkpoint)
        reporter.flush()
        nodes.forget(config["job"], job)
    except DivergedError as error:  # on all ranks alike; no restart mends it, so to Ray it is no failure
        reporter.flush(diverged=str(error))
    finally:
        faulthandler.cancel_dump_traceback_later()


def _nodes_to_go() -> set[str]:
    """Those of this training's nodes that Ray knows will be taken away soon (a spot instance's notice, a drain). All
    ranks must ask."""
    from ray.train import get_preemption_info

    info = get_preemption_info()
    return set(info.preempted_node_ids) if info else set()


class _Reporter:
    """Collects rows and reports them together, all ranks at the same moment, at most every few seconds.

    A worker whose next row does not come in time says where it hangs and ends itself, so that Ray starts another.
    to_go: asked after each report, by all ranks, for the nodes that will be taken away.
    """

    def __init__(
        self,
        world: Any,
        report: Callable[[dict[str, Any]], None],
        stall_seconds: float,
        to_go: Callable[[], set[str]] = set,
    ) -> None:
        self.world, self.report, self.stall_seconds, self.to_go = world, report, stall_seconds, to_go
        self.rows: list[Row] = []
        self.known: set[str] = set()
        self.saved: set[str] = set()
        self.last = time.monotonic()
        faulthandler.dump_traceback_later(stall_seconds, exit=True)

    def __call__(self, rows: list[Row]) -> None:
        faulthandler.dump_traceback_later(self.stall_seconds, exit=True)  # anew
        self.rows += rows
        if self.world.broadcast(int(time.monotonic() - self.last >= REPORT_SECONDS)):
            self.flush()

    def flush(self, **more: str) -> None:
        self.report({"rows": self.rows, **more} if self.world.rank == 0 else {})
        self.rows, self.last = [], time.monotonic()
        self.known |= self.to_go()

    def wants_checkpoint(self) -> bool:
        """Once for every node that will be taken away."""
        wanted = self.known > self.saved
        self.saved |= self.known
        return wanted


def stop_key(name: str) -> bytes:
    return f"genloom-stop-{name}".encode()


def is_asked_to_stop(name: str) -> bool:
    from ray.experimental.internal_kv import _internal_kv_exists

    return bool(_internal_kv_exists(stop_key(name)))
