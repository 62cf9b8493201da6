"""One log window: the means of what iterations log, on the device until the window closes."""

import math
import time

import torch
from torch import Tensor

from pipeline.config import Run
from pipeline.core.world import World
from pipeline.training.job import DivergedError, Progress, Row, WindowContents

SKIPPED = "skipped_steps"  # the share of a window's iterations, where params allow it


def crosses(before: int, now: int, every: int) -> bool:
    """Tell whether a multiple of ``every`` lies in (before, now]."""
    return now // every > before // every


class Window:
    """Sums of logs since ``begin``, on the device: nothing waits for it until the window closes.

    Args:
        begin: images seen at its beginning.
        skips: whether steps that are not finite are left out of training, and so of the means.
    """

    def __init__(self, begin: int, *, skips: bool = False) -> None:
        self.begin, self.skips, self.started, self.iterations = begin, skips, time.monotonic(), 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}  # of finite values, where others are left out

    @classmethod
    def reopened(cls, progress: Progress, seen: int, run: Run, device: torch.device) -> "Window":
        """Return the window in which training goes on, and take back what the end of a smaller budget had closed.

        Args:
            progress: of the checkpoint; changed in place if training goes on where a budget ended.
            seen: images seen at the checkpoint.
            run: the settings, whose budget may have grown.
            device: of the sums.

        Returns:
            A window that begins at ``seen``, or the one that the end of the budget cut short.
        """
        window, last = cls(seen, skips=run.non_finite == "skip"), progress.last
        if last is None or seen >= run.images:
            return window
        progress.last = None
        if not crosses(last["begin"], seen, run.log_every):
            progress.history.pop()
            window.begin, window.iterations = last["begin"], last["iterations"]
            window.started -= last["seconds"]
            window.sums, window.counts = (
                {name: value.to(device) for name, value in last[part].items()} for part in ("sums", "counts")
            )
            return window
        row = progress.history[-1]
        if not crosses(last["begin"], seen, run.snapshot_every):
            row["snapshot"] = None
        if not (run.watch_every and crosses(last["begin"], seen, run.watch_every)):
            row.pop("watched", None)
            row.pop("warnings", None)
        return window

    def contents(self, world: World) -> WindowContents:
        """Return what ``reopened`` needs, averaged over the ranks. Collective."""
        parts = [{name: value.clone() for name, value in part.items()} for part in (self.sums, self.counts)]
        world.average([value for part in parts for value in part.values()])
        sums, counts = ({name: value.cpu() for name, value in part.items()} for part in parts)
        seconds = time.monotonic() - self.started
        return {
            "begin": self.begin,
            "iterations": self.iterations,
            "seconds": seconds,
            "sums": sums,
            "counts": counts,
        }

    def add(self, logs: dict[str, Tensor]) -> None:
        """Add an iteration's logs: 0-d tensors, of the same names each time."""
        self.iterations += 1
        if self.skips:
            finite = {name: value.isfinite() for name, value in logs.items()}
            logs = {name: value.where(finite[name], 0.0) for name, value in logs.items()}
            self.counts = _added(self.counts, {name: value.to(torch.float32) for name, value in finite.items()})
        self.sums = _added(self.sums, logs)

    def close(self, seen: int, world: World) -> Row:
        """Average over the window and the ranks. Collective.

        Args:
            seen: images seen now.
            world: whose ranks all close the window.

        Returns:
            The window's row, without a snapshot.

        Raises:
            DivergedError: a mean is not finite, or no step was that could be kept; on all ranks alike.
        """
        means = torch.stack(list(self.sums.values())).double() / self.iterations
        world.average([means])
        if self.skips:
            shares = torch.stack(list(self.counts.values())).double() / self.iterations
            world.average([shares])
            means = means / shares  # of the finite values; NaN where there was none
        values = dict(zip(self.sums, means.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            never = " in any step" if self.skips else ""
            raise DivergedError(f"{', '.join(bad)} was not finite{never} between {self.begin:,} and {seen:,} images")
        if self.skips:
            values[SKIPPED] = 1.0 - float(shares.min())
        values["images_per_second"] = (seen - self.begin) / (time.monotonic() - self.started)
        return {"seen": seen, "time": time.time_ns() // 1_000_000, "values": values, "snapshot": None}


def _added(sums: dict[str, Tensor], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums after adding to them in place; copies of the values if there are none yet."""
    if not sums:
        return {name: value.clone() for name, value in values.items()}
    torch._foreach_add_(list(sums.values()), [values[name] for name in sums])
    return sums
