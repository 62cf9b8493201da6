"""The function that each Ray worker runs."""

import faulthandler
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from pipeline.cluster import nodes
from pipeline.training.job import DivergedError, Row

# Ray's thread in a worker asks for the GIL a hundred times a second. After Python's 5 ms, training would stop until
# that thread has found a free core; within this time it gets the GIL in a backward pass, which lets go of it.
SWITCH_SECONDS = 0.2
REPORT_SECONDS = 5.0  # Ray drains reports every two seconds, and a report waits for the one before


def run_worker(config: dict[str, Any]) -> None:
    """Train this worker's shard of ``config["job"]``, from the newest checkpoint to the end.

    Blocks until training has ended, has been asked to stop, or has diverged, which is reported and not raised: no
    restart helps.

    Args:
        config: what the driver has set (``driver._settings``).
    """
    import ray
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from pipeline.core.world import World
    from pipeline.training.trainer import train

    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(config["threads"])
    job = nodes.unpack(config["job"], config["inputs"], ray.get)
    if torch.distributed.get_world_size() == 1:
        torch.distributed.destroy_process_group()  # gloo's thread wakes a hundred times a second
    world = World.current(get_device())
    reporter = _Reporter(
        world, ray_train.report, config["stall_seconds"], _preempted_nodes if config["watched"] else set
    )

    def stop() -> bool:
        return world.rank == 0 and config["stop_request"].is_made()

    try:
        train(job, world, reporter, stop, reporter.wants_checkpoint)
        reporter.flush()
        nodes.remove_copies(config["job"], job)
    except DivergedError as error:  # on all ranks
        reporter.flush(diverged=str(error))
    finally:
        faulthandler.cancel_dump_traceback_later()


def _preempted_nodes() -> set[str]:
    """Return those of this training's nodes that Ray knows will be taken away soon (a spot instance's notice, a drain).

    Collective: all ranks must ask.
    """
    from ray.train import get_preemption_info

    info = get_preemption_info()
    return set(info.preempted_node_ids) if info else set()


class _Reporter:
    """Collects rows and reports them together, all ranks at the same moment, at most every few seconds.

    A worker whose next row does not come within ``stall_seconds`` prints where it hangs and ends itself, so that Ray
    starts another. ``preempted`` is called after each report, by all ranks, for the nodes that will be taken away.
    Calls are collective operations, and block until Ray has taken the report before.
    """

    def __init__(
        self,
        world: Any,
        report: Callable[[dict[str, Any]], None],
        stall_seconds: float,
        preempted: Callable[[], set[str]] = set,
    ) -> None:
        self.world, self.report, self.stall_seconds, self.preempted = world, report, stall_seconds, preempted
        self.rows: list[Row] = []
        self.known: set[str] = set()
        self.saved: set[str] = set()
        self.last = -math.inf  # the first rows are reported at once: until then nobody knows that it trains
        faulthandler.dump_traceback_later(stall_seconds, exit=True)

    def __call__(self, rows: list[Row]) -> None:
        faulthandler.dump_traceback_later(self.stall_seconds, exit=True)  # starts the wait again
        self.rows += rows
        due = bool(self.rows) and time.monotonic() - self.last >= REPORT_SECONDS
        if self.world.broadcast(int(due)):
            self.flush()

    def flush(self, **more: str) -> None:
        """Report the rows collected so far, and ``more`` besides."""
        self.report({"rows": self.rows, **more} if self.world.rank == 0 else {})
        self.rows, self.last = [], time.monotonic()
        self.known |= self.preempted()

    def wants_checkpoint(self) -> bool:
        """Return True once for every node that will be taken away."""
        wanted = self.known > self.saved
        self.saved |= self.known
        return wanted
