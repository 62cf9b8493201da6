"""Trainings that take turns: all processes of all but one are stopped (SIGSTOP), some seconds each, many times.

What is compared was so measured within seconds of each other, which a shared machine's drift does not touch. A
training's images/s in its turn are read from the journal, whose rows the training process itself has dated.
"""

import math
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from pipeline import methods
from pipeline.cluster.driver import train_on_ray
from pipeline.config import Cluster, Run
from pipeline.core.world import World
from pipeline.files import write_json
from pipeline.tracking.journal import NAME, Journal, read
from pipeline.tracking.record import record
from pipeline.training.job import Job
from pipeline.training.trainer import train

START_SECONDS = 180.0
WARM_ROWS = 6
SETTLE_SECONDS = 0.5  # of a turn, until its processes have their caches and pages again
ENDLESS = 10**9


@dataclass(frozen=True, kw_only=True)
class Training:
    """A DCGAN on toy data: ``workers`` of Ray's, or 0 for none, with ``threads`` each (None: as the product chooses).

    log_every: images between two rows of the journal, some half a second.
    """

    workers: int
    threads: int | None = None
    width: int = 64
    size: int = 32
    log_every: int = 320

    def run(self, folder: Path) -> None:
        store = folder / "store"
        run = Run(method="dcgan", images=ENDLESS, checkpoint_every=ENDLESS, snapshot_every=ENDLESS,
                  log_every=self.log_every)  # fmt: skip
        job = Job(key="bench", run=run, method=methods.load("dcgan", width=self.width), data=str(folder / "data"),
                  store=str(store))  # fmt: skip
        with Journal.open(store) as journal:
            journal.start(name="bench", key="bench", params={}, tags={})
        if self.workers:
            return train_on_ray(job, Cluster(workers=self.workers, cpus_per_worker=self.threads), store)
        torch.set_num_threads(self.threads or torch.get_num_threads())
        with Journal.open(store) as journal:
            train(job, World(), lambda rows: record(journal, rows, job.snapshots))


def toy_data(folder: Path, size: int, count: int = 4096) -> None:
    """Random images in the format of out/data."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "train-images-00000.npy", rng.integers(0, 256, (count, size, size, 1), dtype=np.uint8))
    np.save(folder / "train-labels.npy", np.zeros(count, dtype=np.int64))
    splits = {"train": {"count": count, "shards": ["train-images-00000.npy"]}}
    write_json(folder / "spec.json", {"channels": 1, "size": size, "classes": ["0"], "splits": splits, "digest": "toy"})


def take_turns(trainings: Mapping[str, Training], turns: int, seconds: float) -> dict[str, list[float]]:
    """images/s of each training in each of its turns; the order of the trainings changes from turn to turn."""
    with tempfile.TemporaryDirectory() as folder, _started(trainings, Path(folder)) as processes:
        marks: dict[str, list[tuple[float, float]]] = {name: [] for name in trainings}
        for turn in range(turns):
            for name in list(trainings)[:: 1 if turn % 2 == 0 else -1]:
                _signal(processes[name], signal.SIGCONT)
                time.sleep(SETTLE_SECONDS)
                begin = time.time()
                time.sleep(seconds)
                marks[name].append((begin, time.time()))
                _signal(processes[name], signal.SIGSTOP)
        for process in processes.values():
            _signal(process, signal.SIGCONT)
        time.sleep(10)  # for Ray's last report
        return {name: [_speed(_rows(Path(folder, name)), *mark) for mark in marks[name]] for name in trainings}


def ratios(speeds: Mapping[str, list[float]], name: str, to: str) -> str:
    """Of the mean over the turns, and its standard error."""
    each = [a / b for a, b in zip(speeds[name], speeds[to], strict=True)]
    error = statistics.stdev(each) / math.sqrt(len(each))
    return (
        f"{name}: {statistics.mean(speeds[name]):.0f} images/s, {to}: {statistics.mean(speeds[to]):.0f} images/s; "
        f"ratio median {statistics.median(each):.3f}, mean {statistics.mean(each):.3f} +- {error:.3f} "
        f"({len(each)} turns, {min(each):.2f} to {max(each):.2f})"
    )


@contextmanager
def _started(trainings: Mapping[str, Training], folder: Path) -> Iterator[dict[str, psutil.Process]]:
    """Each begun, warmed up and stopped."""
    found: dict[str, psutil.Process] = {}
    try:
        for name, training in trainings.items():
            (folder / name).mkdir()
            toy_data(folder / name / "data", training.size)
            child = multiprocessing.get_context("spawn").Process(target=training.run, args=(folder / name,))
            child.start()
            assert child.pid
            found[name] = psutil.Process(child.pid)
            deadline = time.monotonic() + START_SECONDS
            while len(_rows(folder / name)) < WARM_ROWS:
                if not child.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} did not begin to train")
                time.sleep(0.5)
            _signal(found[name], signal.SIGSTOP)
        yield found
    finally:
        for process in found.values():
            _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: int) -> None:
    """To a process and all that it has started: parents last stopped and first continued."""
    with suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
        for member in tree if number == signal.SIGCONT else reversed(tree):
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)


def _rows(folder: Path) -> list[tuple[float, int]]:
    """(seconds since 1970, images seen) of the journal's rows."""
    file = folder / "store" / NAME
    rows = [row for row, _ in read(file)] if file.exists() else []
    return [(row["time"] / 1000, row["step"]) for row in rows if row["kind"] == "metrics" and row["once"]]


def _speed(rows: list[tuple[float, int]], begin: float, end: float) -> float:
    inside = [row for row in rows if begin <= row[0] <= end]
    if len(inside) < 3:
        raise RuntimeError("too few rows in a turn: give it more seconds")
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
