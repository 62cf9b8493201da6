"""One run's training on one process of a world: the loop, its log windows, snapshots and checkpoints.

Ray's workers and the process without Ray call the same ``train``; it knows neither Ray nor MLflow. Rows (job.Row),
snapshots, looks and checkpoints fall where images seen cross a multiple of their cadence, and the last ones where the
budget ends. So a resumed run makes the same rows as an uninterrupted one, and so does one whose budget has grown.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config import LAST
from pipeline.core.batch import Batch, to_uint8, to_unit_range
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import Dataset, domains, open_dataset
from pipeline.data.feed import Waiting
from pipeline.files import atomic_file
from pipeline.inference.generate import drawn_beside
from pipeline.render.grid import grid
from pipeline.storage.aside import Aside
from pipeline.storage.checkpoint import Budgets
from pipeline.training.course import fresh_state, iterations, threads_of
from pipeline.training.job import Job, Progress, Row
from pipeline.training.memory import keep_freed_memory, leave_compiler_out, needed_by, needing, peak_memory
from pipeline.training.threads import computing_with
from pipeline.training.watching import alarms_at_last, announce, best_look, is_best, look, stopped_by
from pipeline.training.window import Window, crosses
from pipeline.watch.look import evaluating

SNAPSHOT_GRID = 8  # rows and columns


def train(
    job: Job,
    world: World,
    report: Callable[[list[Row]], None],
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], bool] = lambda: False,
) -> None:
    """Train from the newest checkpoint before the job's goal to it, or to a look that gives a warning to stop on.

    Collective: every rank of the world must call.

    Args:
        job: the run.
        world: the processes that train together.
        report: gets new rows, and first those of the checkpoint: some may have been lost on the way.
        stop: asked at each log window; training ends at the first that says so, with a checkpoint.
        save: asked likewise; says that a checkpoint is wanted now, besides those of the cadence. Of both, rank 0's
            word counts.

    Raises:
        DivergedError: a loss or gradient is not finite, or with run.non_finite skip none is in a whole log window; on
            all ranks alike.
    """
    keep_freed_memory()
    leave_compiler_out()
    dataset = open_dataset(Path(job.data), job.elsewhere)
    state = fresh_state(job, dataset.spec, world)
    progress = resume(job, state, world)
    window = Window.reopened(progress, state.seen, job.run, world.device)
    announce(progress.history, job)
    report(progress.history)
    if state.seen >= job.goal or stopped_by(progress.history, job):
        return
    progress.threads = threads_of(job, dataset.spec, world, progress.threads)
    with computing_with(progress.threads), Aside(job.storage) as aside:
        _Training(job, world, state, progress, dataset, aside).go_on(window, report, stop, save)


def resume(job: Job, state: State, world: World) -> Progress:
    """Load the newest checkpoint up to the job's goal: the first that rank 0 proposes and every node has whole.

    Collective.

    Args:
        job: the run.
        state: fresh; it is changed in place.
        world: the processes that train together.

    Returns:
        The checkpoint's progress, or an empty one if there is no checkpoint.
    """
    before, whole = job.goal + 1, False
    while not whole:
        found = job.storage.newest(before) if world.rank == 0 else None
        before = seen = world.broadcast(-1 if found is None else found)
        if seen < 0:
            return Progress()
        whole = world.all_true(world.rank == 0 or job.storage.fetch_checkpoint(seen))
    content = job.checkpoints.load(seen, torch.device("cpu"))  # whole, where the device may hold a shard
    state.load_state_dict(content.pop("state"))
    return Progress(**content)


class _Training:
    """What a training leaves behind as it goes: snapshots and checkpoints."""

    def __init__(
        self, job: Job, world: World, state: State, progress: Progress, dataset: Dataset, aside: Aside
    ) -> None:
        self.job, self.world, self.state, self.progress, self.dataset = job, world, state, progress, dataset
        self.aside, self.begin = aside, state.seen
        self.started = time.monotonic() - progress.seconds
        self.waiting = Waiting(progress.waited)
        progress.device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
        if not progress.worlds or progress.worlds[-1][1] != world.size:
            progress.worlds.append((state.seen, world.size))

    def go_on(
        self,
        window: Window,
        report: Callable[[list[Row]], None],
        stop: Callable[[], bool],
        save: Callable[[], bool],
    ) -> None:
        """Train from where the state is. Collective.

        Args:
            window: in which it goes on.
            report: as for ``train``.
            stop: as for ``train``.
            save: as for ``train``.
        """
        job, state = self.job, self.state
        if state.seen == 0:
            self.snapshot()
        for logs in needing("training step", iterations(job, state, self.dataset, self.world, self.waiting)):
            window.add(logs)
            if state.seen >= job.goal or crosses(window.begin, state.seen, job.run.log_every):
                row, over = self.close(window, stop, save)
                report([row])
                if over:
                    return
                window = Window(state.seen, skips=window.skips)

    def close(self, window: Window, stop: Callable[[], bool], save: Callable[[], bool]) -> tuple[Row, bool]:
        """Close a log window, with the snapshot, the look and the checkpoint that are due at its end. Collective.

        Args:
            window: that ends here.
            stop: as for ``train``.
            save: as for ``train``.

        Returns:
            Its row, and whether the training ends here.
        """
        run, seen, world = self.job.run, self.state.seen, self.world
        self.aside.check()
        finished, ended = seen >= run.images, seen >= self.job.goal
        row = window.close(seen, world)
        stopping, asked = bool(world.broadcast(int(stop()))), bool(world.broadcast(int(save())))
        improved = False
        if finished or crosses(window.begin, seen, run.snapshot_every):
            row["snapshot"] = self.snapshot()
        self.note(row)
        if run.watch_every and (ended or crosses(window.begin, seen, run.watch_every)):
            alarmed, improved = self.look()
            stopping = stopping or alarmed
        if finished:
            self.progress.end(window.contents(world))
        over = ended or stopping
        if over or asked or improved or crosses(window.begin, seen, run.checkpoint_every):
            self.checkpoint(wait=over or asked)  # the caller takes what it asked for to be there
        elif window.begin == self.begin and crosses(seen, self.job.goal - 1, run.checkpoint_every):
            self.prepare()
        return row, over

    def note(self, row: Row) -> None:
        """Add a row to the progress, and the cost so far."""
        self.progress.history.append(row)
        self.progress.peak_memory_bytes = max(self.progress.peak_memory_bytes, peak_memory(self.world.device))
        self.progress.seconds = time.monotonic() - self.started
        self.progress.waited = self.waiting.seconds

    def checkpoint(self, *, wait: bool) -> None:
        """Save state and progress; rank 0 writes, aside unless it has to ``wait``. Collective."""
        self.state.synchronize(self.world)
        content = {"state": self.state.state_dict(), **vars(self.progress)}  # collective, if sharded
        if self.world.rank == 0:
            keep, history = self.job.run.keep, self.progress.history
            best = best_look(history, keep) if keep != LAST else None
            kept = () if best is None else (best,)
            budgets = Budgets(until=self.job.goal, ended=self.progress.ends, best=kept)
            self.aside.save(self.state.seen, content, budgets, wait=wait)

    def prepare(self) -> None:
        """Let rank 0 take memory for copies of the state, except of one in shards, which only all together gather."""
        if self.world.rank == 0 and not (self.job.shard and self.world.size > 1):
            self.aside.prepare(self.state.state_dict())

    def look(self) -> tuple[bool, bool]:
        """Look at the averaged nets and write into the last row what was seen; rank 0 does. Collective.

        Returns:
            Whether it gives a warning to stop on, and whether it is the best look so far; the same on all ranks.
        """
        alarmed = best = False
        if self.world.rank == 0:
            job, history = self.job, self.progress.history
            row, device = history[-1], self.world.device
            row["watched"] = look(job, self.state, self.dataset, device, processes=self.world.size)
            row["warnings"] = alarms_at_last(history, job)
            alarmed = any(alarm["kind"] in job.run.stop_on for alarm in row["warnings"])
            best = is_best(history, job.run)
        return bool(self.world.broadcast(int(alarmed))), bool(self.world.broadcast(int(best)))

    def snapshot(self) -> str | None:
        """Render the fixed batch with the averaged nets; rank 0 returns the file's name, others None."""
        if self.world.rank:
            return None
        fixed = fixed_batches(self.job, self.dataset, self.world.device, processes=self.world.size)
        return draw_snapshot(self.job, self.state, fixed)


def snapshot_name(seen: int) -> str:
    """Return the name of the picture made when so many images were seen."""
    return f"{seen:09d}.png"


def draw_snapshot(job: Job, state: State, fixed: Iterable[Batch]) -> str:
    """Render the fixed batches with the averaged nets to the run's snapshots; return the file's name."""
    name = snapshot_name(state.seen)
    nets = state.averaged()
    with atomic_file(job.snapshots / name) as temporary, needed_by("preview"):
        images = [to_uint8(sample(job.method, nets, batch)).cpu() for batch in fixed]
        grid(torch.cat(images), columns=SNAPSHOT_GRID).save(temporary)
    job.storage.send_snapshot(name)
    return name


def fixed_batches(job: Job, dataset: Dataset, device: torch.device, *, processes: int) -> Iterator[Batch]:
    """Yield the same latents and labels for every snapshot, so that the film shows training alone; as many at a time
    as each of so many processes trains on, so that no snapshot needs more memory than training."""
    first, _ = domains(dataset, job.run.domains, job.method.views)
    split = first.splits[drawn_beside(job.method, "train")]
    for rows in torch.arange(SNAPSHOT_GRID**2).split(max(1, job.run.batch_size // processes)):
        yield Batch(
            images=to_unit_range(split.images((rows % len(split)).numpy()), device),
            labels=(rows % max(dataset.spec.classes, 1)).to(device),
            noise=Noise(0, rows.to(device), "snapshot"),
        )


@torch.no_grad()
def sample(method: Method, nets: Nets, like: Batch) -> Tensor:
    """Sample in evaluation mode, and leave the nets' modes as they were, frozen modules included.

    Args:
        method: how to sample.
        nets: its nets.
        like: labels and noise of the samples, n.

    Returns:
        (n, c, h, w) in [-1, 1].
    """
    with evaluating(nets):
        return method.sample(nets, like)
