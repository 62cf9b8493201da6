"""All trainings of params.yaml at once, as many as there is room for: each a process of its own, ahead of its stage.

On one machine without GPUs a training takes one process and its share of the cores, without Ray: two small trainings
with a thread each are faster together than one after the other with two. On a cluster, or where there are GPUs or
several workers, each process is the driver of its training, and Ray has the workers of all of them.

A run that begins from another starts when that one is trained and published.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

from pipeline.config import SCRATCH, Cluster, Params, read_run
from pipeline.errors import UserError
from pipeline.tracking.journal import NAME, read
from pipeline.tracking.progress import warnings_in

POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)
State = Literal["waiting", "starting", "training", "trained", "stopped", "failed", "left out"]


@dataclass(frozen=True)
class Room:
    """Where a training runs.

    Attributes:
        slots: trainings at a time.
        workers: of each, on Ray; 0: in its own process.
        cpus: of each worker.
        address: of the cluster.
    """

    slots: int
    workers: int
    cpus: int
    address: str | None = None

    def command(self, run: str, seed: int) -> list[str]:
        """Return the command that trains one seed of a run."""
        words = [sys.executable, "-m", "pipeline.stages.ahead", run, str(seed), "--workers", str(self.workers)]
        return [*words, "--cpus", str(self.cpus), *(["--address", self.address] if self.address else [])]

    @property
    def environment(self) -> dict[str, str]:
        """What its process finds in its environment: Ray gives workers their threads itself."""
        return {} if self.workers else {"OMP_NUM_THREADS": str(self.cpus)}


@dataclass
class Training:
    """One seed of a run, and how far it is.

    Attributes:
        run: its name.
        seed: its seed.
        several: whether the run has other seeds.
        after: the run that must be published before; None: none.
        state: where it is.
        seen: images seen.
        total: images of the whole training, once known.
        speed: images per second.
        reason: why it failed or was left out.
    """

    run: str
    seed: int
    several: bool
    after: str | None
    state: State = "waiting"
    seen: int = 0
    total: int | None = None
    speed: float | None = None
    reason: str = ""
    _journal: Path | None = None
    _offset: int = 0
    _begun: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    @property
    def name(self) -> str:
        """The run, and the seed where it has several."""
        return f"{self.run} seed {self.seed}" if self.several else self.run

    def follow(self, announced: str) -> None:
        """Read what is new of it: first what its process printed, then its journal."""
        if self._journal is None and announced.startswith("{") and announced.endswith("\n"):
            about = json.loads(announced.splitlines()[0])
            self._journal, self.total = Path(about["journal"], NAME), about["total"]
            self.state = "training"
        if self._journal is None or not self._journal.exists():
            return
        for record, behind in read(self._journal, self._offset):
            self._offset = behind
            if record.get("time", 0) < self._begun:  # of an earlier start
                continue
            if record["kind"] == "metrics" and record["once"]:
                self.seen = max(self.seen, record["step"])
                self.speed = record["values"].get("images_per_second", self.speed)
            elif record["kind"] == "tags":
                for line in warnings_in(record["tags"]):
                    _log.warning("%s: %s", self.name, line)


def trainings(params: Params, runs: Sequence[str]) -> list[Training]:
    """Return the trainings of some runs, and of those that they begin from.

    Args:
        params: of the project.
        runs: names; all if none is given.

    Returns:
        A training for each seed, a run after the one that it begins from.

    Raises:
        UserError: there is no such run.
    """
    chosen: dict[str, str | None] = {}

    def choose(name: str) -> None:
        run = read_run(params, name)[0]
        before = None if run.init_from == SCRATCH else run.init_from.removeprefix("runs/")
        if before:
            choose(before)
        chosen[name] = before

    for name in runs or params.runs:
        choose(name)
    found = []
    for name, before in chosen.items():
        seeds = read_run(params, name)[0].all_seeds
        found += [Training(run=name, seed=seed, several=len(seeds) > 1, after=before) for seed in seeds]
    return found


@contextmanager
def room(cluster: Cluster, count: int, jobs: int | None) -> Iterator[Room]:
    """Find out how many trainings run at a time, on which cluster; a cluster of this machine alone ends with the block.

    Args:
        cluster: where params.yaml has trainings run.
        count: trainings in all.
        jobs: trainings at a time at most; None: as many as fit.

    Yields:
        The room.

    Raises:
        UserError: not even one fits.
    """
    import torch

    if cluster.alone and not torch.cuda.is_available():
        cpus, each = os.cpu_count() or 1, cluster.cpus_per_worker or 1
        slots = max(1, min(count, jobs or count, cpus // each))
        yield Room(slots=slots, workers=0, cpus=cluster.cpus_per_worker or cpus // slots)
        return
    from pipeline.cluster.connect import connect, share_of
    from pipeline.cluster.driver import rays_environment

    cluster = cluster if cluster.most else replace(cluster, workers=1)  # where there are GPUs, Ray deals them out
    with rays_environment(cluster), connect(cluster) as resources:
        import ray

        gpus = share_of(cluster, resources).gpus  # says what one training needs that there is not
        cpus = int(resources["CPU"])
        fit = cpus // (cluster.most * (cluster.cpus_per_worker or 1))
        fit = min(fit, int(resources["GPU"] // (cluster.most * gpus))) if gpus else fit
        slots = max(1, min(count, jobs or count, fit))
        each = cluster.cpus_per_worker or max(1, cpus // (slots * cluster.most))
        address = cluster.address or ray.get_runtime_context().gcs_address
        yield Room(slots=slots, workers=cluster.most, cpus=each, address=address)


def train_together(
    found: Sequence[Training],
    place: Room,
    publish: Callable[[str], None],
    show: Callable[[Sequence[Training]], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train all, as many at a time as there is room for; a failing one hinders only those that begin from it.

    Args:
        found: the trainings; their states say in the end what became of each.
        place: where.
        publish: called with a run that others begin from once all of it is trained.
        show: called with the trainings now and then.
        stop: asked now and then; once true, the trainings stop at a checkpoint.
    """
    processes: dict[int, _Process] = {}
    published: set[str] = set()
    asked = False
    try:
        while True:
            for index, process in list(processes.items()):
                found[index].follow(process.printed())
                if process.ended(found[index]):
                    del processes[index]
            _pass_over(found)
            if stop() and not asked:
                asked = True
                for process in processes.values():
                    process.stop()
            for index, training in enumerate(found):
                if not asked and training.state == "waiting" and len(processes) < place.slots:
                    if training.after and training.after not in published:
                        if not all(other.state == "trained" for other in found if other.run == training.after):
                            continue
                        publish(training.after)
                        published.add(training.after)
                    processes[index] = _Process(place, training)
            show(found)
            if not processes and (asked or all(training.state != "waiting" for training in found)):
                return
            time.sleep(POLL_SECONDS)
    finally:
        for process in processes.values():
            process.stop()


def _pass_over(found: Sequence[Training]) -> None:
    """Leave out what begins from a run that failed or was left out itself."""
    for training in found:
        lost = [other for other in found if other.run == training.after and other.state in ("failed", "left out")]
        if training.state == "waiting" and lost:
            training.state, training.reason = "left out", f"it begins from {training.after}, which is not trained"


class _Process:
    """The process of a training, and what it prints."""

    def __init__(self, place: Room, training: Training) -> None:
        """Start it."""
        training.state, self._asked = "starting", False
        self._out, self._errors = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            place.command(training.run, training.seed),
            env=os.environ | place.environment,
            stdout=self._out,
            stderr=self._errors,
            start_new_session=True,  # the parent alone hears Ctrl-C, and passes it on
        )

    def printed(self) -> str:
        """Return its standard output so far."""
        return _content(self._out)

    def stop(self) -> None:
        """Ask it to end at the next checkpoint."""
        if self._process.poll() is None:
            self._asked = True
            self._process.send_signal(signal.SIGTERM)

    def ended(self, training: Training) -> bool:
        """Tell whether it has ended, and note in the training how."""
        if self._process.poll() is None:
            return False
        training.state = ("stopped" if self._asked else "failed") if self._process.returncode else "trained"
        if training.state == "trained":
            training.seen = training.total or 0  # one that was finished before wrote nothing
        elif training.state == "failed":
            lines = [line for line in _content(self._errors).splitlines() if line.strip()]
            said = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            training.reason = " ".join(line.removeprefix("error: ") for line in said) or "it ended without a word"
        self._out.close()
        self._errors.close()
        return True


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def refuse_failures(found: Sequence[Training]) -> None:
    """Raise UserError with what failed and why, if anything did."""
    lost = [f"{training.name}: {training.reason}" for training in found if training.state in ("failed", "left out")]
    if lost:
        raise UserError("\nerror: ".join(lost))
