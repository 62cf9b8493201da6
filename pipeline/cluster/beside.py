"""Trainings beside the one that DVC has come to: ahead of their stages, which then publish what they left.

DVC runs its stages one by one, and a small training computes with one thread, so that the other cores would wait. Here
the stages of one `dvc repro` share slots, one for each core, each a lock that dies with who holds it. A stage that
trains holds as many as it has threads, and one that waits for a training beside it holds none. For what is free,
processes are started that each train one run to its end and then start the next. They end with DVC (session/server.py),
at a checkpoint.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.cluster.launch import launch, launching
from pipeline.cluster.together import Training, trainings
from pipeline.config import PARAMS, SCRATCH, Params, read_run
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.session import client
from pipeline.session.dvc import repro_of_everything
from pipeline.storage.dvc_cache import in_cache
from pipeline.tracking.dvc_lock import LOCK, Stages, maker, read_stages
from pipeline.training.outcome import next_goal
from pipeline.training.prepare import Prepared, prepared
from pipeline.training.threads import decide_threads

MODULE = "pipeline.stages.beside"
WEIGHTS = "weights.safetensors"
ROOM = 2 * 1024**3  # bytes of memory that must be free for one more; a small training takes a third


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The cores that the trainings of one `dvc repro` share.

    Attributes:
        folder: that its stages share.
        number: how many there are.
    """

    folder: Path
    number: int

    @contextmanager
    def hold(self, wanted: int) -> Iterator[int]:
        """Hold up to so many slots for the block; yield how many there were."""
        with ExitStack() as held:
            found = 0
            for place in range(self.number):
                if found == wanted:
                    break
                try:
                    held.enter_context(locked(self.folder / f"slot-{place}.lock"))
                except BlockingIOError:
                    continue
                found += 1
            yield found

    def free(self) -> int:
        """Return how many nobody holds."""
        with self.hold(self.number) as found:
            return found

    def mark(self, run: str, seed: int) -> Path:
        """Return the file that says, by being there, that a training was begun, and when."""
        return self.folder / f"begun-{run}-{seed}"

    def claim(self, run: str, seed: int) -> bool:
        """Leave the mark of a training; return whether this is the first time: none is begun by two."""
        try:
            self.mark(run, seed).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def begun(self, run: str, seed: int) -> float | None:
        """Return when a training was begun by another process of this `dvc repro`; None: now it is, by this one."""
        return None if self.claim(run, seed) else self.mark(run, seed).stat().st_mtime


def whole_repro_here(params: Params) -> Path | None:
    """Return the folder that the stages of this `dvc repro` share; None: it is none of everything, or on a cluster."""
    folder = None if params.cluster.address else client.folder()
    return folder if folder and repro_of_everything(folder) else None


def slots_of(params: Params) -> Slots | None:
    """Return the slots that this stage shares with others.

    Args:
        params: of the project.

    Returns:
        They; None where trainings have no business beside each other: DVC was asked for some stages only, or did not
        start this process; there is a GPU, a cluster or more than one worker; or params.yaml says one at a time.
    """
    folder, cluster = whole_repro_here(params), params.cluster
    if folder is None or not cluster.alone:
        return None
    import torch

    cores = len(os.sched_getaffinity(0))
    number = cores if cluster.trainings_at_once == "auto" else min(cores, cluster.trainings_at_once)
    return Slots(folder=folder, number=number) if number > 1 and not torch.cuda.is_available() else None


def fill(slots: Slots, params: Params) -> None:
    """Start a process for each free slot, as long as there are trainings to come and memory for them.

    Args:
        slots: of this `dvc repro`.
        params: of the project.
    """
    room = min(slots.free(), psutil.virtual_memory().available // ROOM)
    for _ in range(min(room, len(to_come(slots, params)) if room else 0)):
        with suppress(OSError), (slots.folder / "beside.log").open("ab") as log:
            client.start(MODULE, [], output=log, environment={}, project=Path.cwd())


def to_come(slots: Slots, params: Params) -> list[Training]:
    """Return the trainings that DVC will come to and that nobody has begun, in DVC's order.

    Args:
        slots: of this `dvc repro`.
        params: of the project.

    Returns:
        Those of runs that begin from scratch and whose stage is not as dvc.lock has it.
    """
    stale = changed_runs(params)
    found = trainings(params, stale) if stale else []
    return [training for training in found if not slots.mark(training.run, training.seed).exists()]


def changed_runs(params: Params) -> list[str]:
    """Return the runs that begin from scratch and whose training is not as dvc.lock has it, in DVC's order.

    Args:
        params: of the project.

    Returns:
        Their names; none while DVC is just writing dvc.lock.
    """
    try:
        stages = read_stages() if LOCK.exists() else {}
    except UserError:
        return []
    written = yaml.safe_load(PARAMS.read_text())["runs"]
    scratch = [name for name in params.runs if read_run(params, name)[0].init_from == SCRATCH]
    return [name for name in scratch if not _as_recorded(name, written[name], stages)]


def _as_recorded(name: str, settings: Mapping[str, Any], stages: Stages) -> bool:
    """Return whether DVC would pass over a run's training: params and deps are those of dvc.lock, outs are at hand.

    In a fresh clone dvc.lock has everything as it is, and nothing is there.
    """
    stage = stages.get(f"train@{name}")
    if stage is None or stage.params.get(f"runs.{name}") != settings:
        return False
    if any(recorded != _digest(path, stages) for path, recorded in stage.deps.items()):
        return False
    weights = {path: recorded for path, recorded in stage.outs.items() if Path(path).name == WEIGHTS}
    return all(Path(path).is_file() or in_cache(recorded) is not None for path, recorded in weights.items())


def _digest(path: str, stages: Stages) -> str | None:
    """Return DVC's hash of a dep: a file's own; a folder's as the stage that made it has just recorded it."""
    if Path(path).is_file():
        return hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
    made = maker(path, stages)
    return made[1].outs[made[0]] if made else None


def threads_wanted(ready: Prepared) -> int:
    """Return how many threads a training would compute with if it had all cores; 0: it is finished."""
    if next_goal(ready.job) is None:
        return 0
    job = ready.job
    return decide_threads(job.run, job.product or 0.0, processes=1, available=len(os.sched_getaffinity(0)))


def train_next(slots: Slots, params: Params, out: Path, scratch: Path) -> bool:
    """Train the next of the trainings to come that computes with one thread, to its end, in this process.

    Args:
        slots: of this `dvc repro`.
        params: of the project.
        out: the folder of the stages' outputs.
        scratch: the folder of trainings.

    Returns:
        Whether there was one.

    Raises:
        UserError: it failed, of which its own stage will say more.
        SystemExit: it was stopped by a signal, at a checkpoint.
    """
    for training in to_come(slots, params):
        if slots.claim(training.run, training.seed):
            with prepared(training.run, params, out=out, scratch=scratch, seed=training.seed) as ready:
                if threads_wanted(ready) != 1:
                    continue
                with suppress(BlockingIOError), locked(Path(ready.job.store) / "lock"):
                    launch(ready.job, launching(ready, params), None)
                    return True
    return False
