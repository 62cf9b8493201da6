"""Where a training's time goes: a few iterations of a run, timed, counted and traced, beside what the machine could do.

The parts of an iteration are told apart from outside the loop: by what the loop calls (a phase's loss, the optimizer's
step, the average) and by the block around its backward pass. A training that is not profiled has none of this.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from pipeline.core.batch import Batch
from pipeline.core.loop import fit
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import Dataset
from pipeline.training.course import fresh_state, settings_of, stream_of, threads_of
from pipeline.training.job import Job
from pipeline.training.memory import keep_freed_memory, leave_compiler_out
from pipeline.training.threads import computing_with
from pipeline.training.window import Window
from pipeline.training.work import Counting, Rates, Work, gpu_share, measured

PARTS = ("data", "forward", "backward", "optimizer", "average", "logging")
REST = "rest"  # of the loop: zeroing gradients, norms, seeding, hooks
IDLE = "idle"  # within the parts: where the GPU, or a core of the training's, had nothing to do
_NEVER = 10**12
WARM_UP, COUNTED = 3, 1  # iterations


@dataclass(frozen=True)
class Profile:
    """What was found, per iteration.

    Attributes:
        images: that an iteration sees.
        seconds: that it takes, without a profiler.
        parts: seconds of each part, and of the rest.
        work: of each part.
        rates: of the machine.
        busy: the share of the time in which the GPU has work; on a CPU, of the threads' time in which they run.
        memory: peak in bytes, of the GPU's allocator.
    """

    images: int
    seconds: float
    parts: dict[str, float]
    work: dict[str, Work]
    rates: Rates
    busy: float
    memory: int

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Rows of text under ``COLUMNS``."""
        whole = Work(*(sum(getattr(work, name) for work in self.work.values()) for name in ("flops", "bytes", "floor")))
        rows = [(name, self.parts.get(name, 0.0), self.work.get(name, Work())) for name in (*PARTS, REST)]
        rows += [(IDLE, self.seconds * max(0.0, 1.0 - self.busy), Work()), ("iteration", self.seconds, whole)]
        return [_row(*row, self) for row in rows]


COLUMNS = ("part", "ms", "share", "GFLOP", "GFLOP/s", "of GEMM", "MiB", "GB/s", "of copy", "floor ms", "time / floor")


def _row(name: str, seconds: float, work: Work, profile: Profile) -> tuple[str, ...]:
    rate, speed = (work.flops / seconds, work.bytes / seconds) if seconds else (0.0, 0.0)
    return (
        name,
        f"{1e3 * seconds:.2f}",
        f"{seconds / profile.seconds:.0%}",
        f"{work.flops / 1e9:.3f}",
        f"{rate / 1e9:.1f}",
        f"{rate / profile.rates.flops:.0%}",
        f"{work.bytes / 2**20:.1f}",
        f"{speed / 1e9:.1f}",
        f"{speed / profile.rates.bandwidth:.0%}",
        f"{1e3 * work.floor:.2f}",
        f"{seconds / work.floor:.1f}" if work.floor else "-",
    )


class _Parts:
    """Times named parts: on a GPU between events in its stream, on a CPU by the clock."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu, self.counting = device.type == "cuda", None  # type: bool, Counting | None
        self.spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block; parts do not nest."""
        if self.counting:
            self.counting.current = name
        begin = self._now()
        with record_function(name):
            yield
        self.spans.append((name, begin, self._now()))
        if self.counting:
            self.counting.current = REST

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are a part."""

        def called(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return called

    def seconds(self) -> dict[str, float]:
        """Return the sum of each part so far, and forget it."""
        sums: dict[str, float] = {}
        for name, begin, end in self.spans:
            taken = begin.elapsed_time(end) / 1e3 if self.on_gpu else end - begin
            sums[name] = sums.get(name, 0.0) + taken
        self.spans.clear()
        return sums

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass(frozen=True)
class _WatchedWorld(World):
    """A world of one whose block around the backward pass is a part."""

    parts: _Parts | None = None

    @contextmanager
    def averaging(self, parameters: Any) -> Iterator[None]:
        assert self.parts is not None
        with self.parts.part("backward"), super().averaging(parameters):
            yield


def profile(job: Job, dataset: Dataset, device: torch.device, iterations: int, trace: Path | None = None) -> Profile:
    """Train a few iterations from the beginning, and forget them.

    Args:
        job: the run; its folder is only read, for weights to begin from.
        dataset: the images.
        device: where to train.
        iterations: to time, and as many again to trace.
        trace: gets the trace of torch's profiler, as JSON that Perfetto and Chrome open; None: none is made.

    Returns:
        What was found.
    """
    keep_freed_memory()
    leave_compiler_out()
    world = World(device=device)
    with computing_with(threads_of(job, dataset.spec, world, before=0)):
        return _profiled(job, dataset, world, iterations, trace)


def _profiled(job: Job, dataset: Dataset, world: World, iterations: int, trace: Path | None) -> Profile:
    """Return what ``profile`` does, with the threads of the training."""
    device = world.device
    rates, parts = measured(device, job.run.precision), _Parts(device)
    state = fresh_state(job, dataset.spec, world)
    loop = _watched_loop(job, state, dataset, parts, device)
    _go(loop, WARM_UP)
    parts.seconds()
    seen = state.seen
    begin, cores = _clock(device), time.process_time()
    _go(loop, iterations)
    taken = _clock(device) - begin
    busy = (time.process_time() - cores) / taken / torch.get_num_threads()
    sums = {name: seconds / iterations for name, seconds in parts.seconds().items()}
    sums[REST] = taken / iterations - sum(sums.values())
    images, memory = (state.seen - seen) // iterations, _peak(device)
    with Counting(rates) as parts.counting:
        parts.counting.current = REST
        _go(loop, COUNTED)
    work, parts.counting = parts.counting.work, None
    if trace:
        traced = _traced(loop, iterations, device, trace)
        busy = traced if traced is not None else busy
    return Profile(images, taken / iterations, sums, work, rates, busy, memory)


def _watched_loop(
    job: Job, state: State, dataset: Dataset, parts: _Parts, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the logs of iterations, like course.iterations, with the parts told apart; and add them to a window."""
    run = job.run
    state.phases = tuple(replace(phase, loss=parts.within("forward", phase.loss)) for phase in state.phases)
    for optimizer in state.optimizers.values():
        optimizer.step = parts.within("optimizer", optimizer.step)  # type: ignore[method-assign]
    state.update_average = parts.within("average", state.update_average)  # type: ignore[method-assign]
    world = _WatchedWorld(device=device, parts=parts)
    stream, settings = stream_of(job, dataset, world), settings_of(run)
    take, window = parts.within("data", lambda: next(stream)), Window(0, skips=settings.skip_non_finite)
    for logs in fit(
        job.method,
        state,
        _endless(take),
        world,
        seed=run.seed,
        total=max(run.images, _NEVER),  # however small the budget
        ema_half_life=run.ema_half_life,
        settings=settings,
    ):
        with parts.part("logging"):
            window.add(logs)
        yield logs


def _endless(take: Callable[[], Batch]) -> Iterator[Batch]:
    while True:
        yield take()


def _go(loop: Iterator[object], iterations: int) -> None:
    for _ in range(iterations):
        next(loop)


def _clock(device: torch.device) -> float:
    """Return the time, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _traced(loop: Iterator[object], iterations: int, device: torch.device, trace: Path) -> float | None:
    """Write a trace; return the share of the time in which the GPU had work, None without one."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with torch.profiler.profile(activities=activities) as profiler:
        begin = _clock(device)
        _go(loop, iterations)
        taken = _clock(device) - begin
    profiler.export_chrome_trace(str(trace))
    if device.type != "cuda":
        return None
    return gpu_share(profiler, taken)
