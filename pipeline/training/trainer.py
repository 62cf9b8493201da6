"""One run's training on one process of a world: the loop, its log windows, snapshots and checkpoints.

Ray's workers and the process without Ray call the same ``train``; it knows neither Ray nor MLflow.
A *row* is one log window: {"seen", "time" (ms), "values": {metric: mean over the window and the
ranks}, "snapshot": file name or None}. Rows, snapshots and checkpoints fall where images seen cross
a multiple of their cadence, so a resumed run makes the same rows as an uninterrupted one.
"""

import ctypes
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Run
from pipeline.core import batch_norm
from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.loop import Settings, fit
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.augmentation import Augmentation
from pipeline.data.dataset import Source, Split, domains, open_dataset
from pipeline.data.stream import batches
from pipeline.files import atomic_file, locked
from pipeline.inference.weights import load_tensors
from pipeline.render.grid import grid
from pipeline.storage.checkpoint import Checkpoints, name_of
from pipeline.storage.remote import RemoteStore
from pipeline.tracking.journal import Journal

Row = dict[str, Any]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30
_SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "running low on memory", "MemoryError")
SNAPSHOT_GRID = 8  # rows and columns
FETCH_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, ready to be sent to any process: its settings, its method, and absolute folders.

    url: where checkpoints and snapshots are kept too; None: all nodes see the folder ``store``.
    shard: the optimizers' state is shared out among the processes. elsewhere: where a split's images are, by its name,
    if not in ``data``.
    """

    key: str
    run: Run
    method: Method
    data: str
    store: str
    url: str | None = None
    shard: bool = False
    elsewhere: Callable[[str], Source] | None = None

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(Path(self.store), self.key)

    @property
    def finished_at(self) -> int:
        """Images seen when the budget is spent: whole turns, so at least the budget."""
        turn = self.run.batch_size * max(phase.repeats for phase in self.method.phases())
        return -(-self.run.images // turn) * turn

    @property
    def snapshots(self) -> Path:
        return Path(self.store) / "snapshots"

    @property
    def mirror(self) -> RemoteStore | None:
        """What ``url`` names."""
        return RemoteStore(self.url, Path(self.store)) if self.url else None

    def newest(self, before: float = math.inf) -> int | None:
        """Images seen at the newest whole checkpoint (of those before ``before``); if there is a ``url``, of those
        there, brought to this node."""
        if self.mirror:
            return self.mirror.fetch_newest(self.checkpoints.is_whole, before)
        return self.checkpoints.newest(before)

    def has(self, seen: int) -> bool:
        """Whether this node has that checkpoint whole, brought from ``url`` where it lies there."""
        if self.mirror:
            with locked(Path(self.store) / "fetching", wait=FETCH_SECONDS):  # once per node
                self.mirror.fetch(name_of(seen))
        return self.checkpoints.is_whole(seen)

    def save(self, seen: int, content: dict[str, Any]) -> None:
        """A checkpoint here, and at ``url``."""
        self.checkpoints.save(seen, content)
        if self.mirror:
            self.mirror.send(name_of(seen))
            self.mirror.drop_others(self.checkpoints.existing())

    def fetch_snapshots(self, rows: list[Row]) -> None:
        """Brings the rows' pictures to this node, if they lie at ``url``."""
        if self.mirror:
            for row in rows:
                if row["snapshot"]:
                    self.mirror.fetch(f"snapshots/{row['snapshot']}")

    @property
    def initial(self) -> Path:
        """A copy of the weights that training begins from, if there are any."""
        return Path(self.store) / "initial.safetensors"


@dataclass
class Progress:
    """What a checkpoint holds beside the state: all rows so far, the cost so far, and who has trained: pairs of
    images seen and the number of processes from there on."""

    history: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    device: str = "cpu"
    worlds: list[tuple[int, int]] = field(default_factory=list)


class DivergedError(Exception):
    """A loss or gradient is no longer finite; the last checkpoint is from before."""


def out_of_memory(error: BaseException) -> str | None:
    """The line that says so, where it was memory that ended training: torch's, numpy's, Ray's or Python's own."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return next((line[:300] for line in lines if any(phrase in line for phrase in _SHORT_OF_MEMORY)), None)


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed tensors for the next ones.

    As it comes it maps and unmaps every tensor of some megabytes, and the kernel zeroes its pages anew
    at each step: a tenth of a small network's time on a CPU. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _KEPT_BYTES)


def train(
    job: Job,
    world: World,
    report: Callable[[list[Row]], None],
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], bool] = lambda: False,
) -> None:
    """Trains from the newest checkpoint to the end, or to the first log window after ``stop`` says so.

    ``save`` says that a checkpoint is wanted now, beside those of the cadence; of both, rank 0's word counts.
    ``report`` gets new rows, and first those of the checkpoint: some may have been lost on the way.
    """
    keep_freed_memory()
    run, dataset = job.run, open_dataset(Path(job.data), job.elsewhere)
    first, second = domains(dataset, run.domains)
    initial = load_tensors(job.initial) if job.initial.exists() else None
    state = State.fresh(job.method, dataset.spec, run.seed, world.device, initial=initial, freeze=run.freeze)
    if run.sync_batch_norm:
        batch_norm.synchronize(state.nets, world)
    if job.shard:
        state.shard(world)
    progress = resume(job, state, world)
    progress.device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    if not progress.worlds or progress.worlds[-1][1] != world.size:
        progress.worlds.append((state.seen, world.size))
    report(progress.history)
    stream = batches(
        first.splits["train"],
        seed=run.seed,
        batch_size=run.batch_size,
        world=world,
        start=state.seen,
        other=second.splits["train"] if second else None,
        augment=Augmentation(flip=run.flip, crop=run.crop, rotation=run.rotation),
    )
    turns = fit(
        job.method,
        state,
        stream,
        world,
        seed=run.seed,
        total=run.images,
        ema_half_life=run.ema_half_life,
        settings=Settings(precision=run.precision, skip_non_finite=run.non_finite == "skip"),
    )
    fixed = _fixed_batch(first.splits["train"], dataset.spec, world.device)
    if state.seen == 0:
        _snapshot(job, state, world, fixed)
    started = time.monotonic() - progress.seconds
    window = Window(state.seen)
    for logs in turns:
        window.add(logs)
        finished = state.seen >= job.run.images
        if not (finished or _crossed(window.begin, state.seen, job.run.log_every)):
            continue
        row = window.close(state.seen, world, may_diverge=run.non_finite == "skip")
        asked = world.broadcast(2 * stop() + save())
        stopping = asked >= 2
        if finished or _crossed(window.begin, state.seen, job.run.snapshot_every):
            row["snapshot"] = _snapshot(job, state, world, fixed)
        progress.history.append(row)
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_memory(world.device))
        progress.seconds = time.monotonic() - started
        if finished or asked or _crossed(window.begin, state.seen, job.run.checkpoint_every):
            _save(job, state, world, progress)
        report([row])
        if stopping:
            return
        window = Window(state.seen)


class Window:
    """Sums of logs since ``begin``, on the device: nothing waits for it until the window closes."""

    def __init__(self, begin: int) -> None:
        self.begin, self.started, self.turns = begin, time.monotonic(), 0
        self.sums: dict[str, Tensor] = {}

    def add(self, logs: dict[str, Tensor]) -> None:
        self.turns += 1
        if not self.sums:
            self.sums = {name: value.clone() for name, value in logs.items()}
        else:
            torch._foreach_add_(list(self.sums.values()), [logs[name] for name in self.sums])

    def close(self, seen: int, world: World, may_diverge: bool = False) -> Row:
        """The means over the window and the ranks; raises DivergedError, on all ranks alike, unless they may."""
        means = torch.stack(list(self.sums.values())).double() / self.turns
        world.average([means])
        values = dict(zip(self.sums, means.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad and not may_diverge:
            raise DivergedError(f"{', '.join(bad)} was not finite between {self.begin:,} and {seen:,} images")
        values["images_per_second"] = (seen - self.begin) / (time.monotonic() - self.started)
        return {"seen": seen, "time": time.time_ns() // 1_000_000, "values": values, "snapshot": None}


def record(journal: Journal, rows: list[Row], snapshots: Path) -> None:
    """Writes rows into the journal; one that is there already (a resume repeats some) is dropped."""
    for row in rows:
        journal.metrics(row["values"], step=row["seen"], once=True, time=row["time"])
        if row["snapshot"]:
            journal.image("samples", snapshots / row["snapshot"], step=row["seen"])


def _save(job: Job, state: State, world: World, progress: Progress) -> None:
    state.synchronize(world)
    content = {"state": state.state_dict(), **vars(progress)}  # collective, if sharded
    if world.rank == 0:
        job.save(state.seen, content)


def resume(job: Job, state: State, world: World) -> Progress:
    """Loads the newest checkpoint into ``state``: the first that rank 0 proposes and every node has whole."""
    before, whole = math.inf, False
    while not whole:
        found = job.newest(before) if world.rank == 0 else None
        before = seen = world.broadcast(-1 if found is None else found)
        if seen < 0:
            return Progress()
        whole = world.all_true(world.rank == 0 or job.has(seen))
    content = job.checkpoints.load(seen, torch.device("cpu"))  # whole, where the device may hold a shard
    state.load_state_dict(content.pop("state"))
    return Progress(**content)


def _crossed(before: int, now: int, every: int) -> bool:
    return now // every > before // every


def _fixed_batch(split: Split, spec: ImageSpec, device: torch.device) -> Batch:
    """The same latents and labels for every snapshot, so that the film shows training alone."""
    rows = torch.arange(SNAPSHOT_GRID**2)
    return Batch(
        images=to_unit_range(split.images((rows % len(split)).numpy()), device),
        labels=(rows % max(spec.classes, 1)).to(device),
        noise=Noise(0, rows.to(device), "snapshot"),
    )


def _snapshot(job: Job, state: State, world: World, fixed: Batch) -> str | None:
    """Rank 0 renders the fixed batch with the averaged nets; returns the file's name, to the other ranks None."""
    nets, name = state.averaged(), f"{state.seen:09d}.png"
    if world.rank:
        return None
    with atomic_file(job.snapshots / name) as temporary:
        grid(to_uint8(sample(job.method, nets, fixed)), columns=SNAPSHOT_GRID).save(temporary)
    if job.mirror:
        job.mirror.send(f"snapshots/{name}")
    return name


@torch.no_grad()
def sample(method: Method, nets: Nets, like: Batch) -> Tensor:
    """Samples in evaluation mode and leaves the nets as they were, frozen modules included."""
    was = [(module, module.training) for module in nets.modules()]
    images = method.sample(nets.eval(), like)
    for module, mode in was:
        module.training = mode
    return images


def peak_memory(device: torch.device) -> int:
    """Bytes: the GPU's allocator's peak, or this process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
