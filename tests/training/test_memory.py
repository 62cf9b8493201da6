"""Memory is what training needs: previews take no more images at once, and advice names what needed the memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_job import job, train_on

from pipeline.config import Cluster
from pipeline.core.batch import Batch
from pipeline.core.method import Nets
from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.methods.dcgan import DCGAN
from pipeline.stages.common import enough_memory
from pipeline.training.course import fresh_state
from pipeline.training.job import Job
from pipeline.training.memory import REMEDIES, needed_by, needing, out_of_memory, remedy_of
from pipeline.training.trainer import SNAPSHOT_GRID, draw_snapshot, fixed_batches

SHORT = "DefaultCPUAllocator: can't allocate memory"
taken: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Watched(DCGAN):
    """It notes how many samples it makes at once; of more than ``room`` memory ends."""

    room: int = 64

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        if like.images.device.type == "meta":  # a rehearsal of shapes, which takes none
            return super().sample(nets, like)
        taken.append(len(like))
        if len(like) > self.room:
            raise RuntimeError(SHORT)
        return super().sample(nets, like)


def watched(folder: Path, batch_size: int, room: int = 64) -> Job:
    taken.clear()
    method = Watched(width=8, latent=4, generator_norm="none", critic_norm="none", room=room)
    return replace(job(folder, batch_size=batch_size, images=batch_size), method=method)


def picture(folder: Path, batch_size: int, processes: int) -> np.ndarray:
    work = watched(folder, batch_size)
    dataset = open_dataset(Path(work.data))
    state = fresh_state(work, dataset.spec, World())
    work.snapshots.mkdir(parents=True, exist_ok=True)
    name = draw_snapshot(work, state, fixed_batches(work, dataset, torch.device("cpu"), processes=processes))
    with Image.open(work.snapshots / name) as opened:
        return np.asarray(opened).astype(int)


def test_a_preview_takes_as_many_images_at_once_as_a_process_trains_on(tmp_path: Path) -> None:
    whole = picture(tmp_path, 64, 1)
    assert taken == [SNAPSHOT_GRID**2]
    for batch_size, processes, most in ((6, 1, 6), (64, 4, 16), (2, 4, 1)):
        parts = picture(tmp_path, batch_size, processes)
        assert max(taken) == most and sum(taken) == SNAPSHOT_GRID**2
        assert np.abs(parts - whole).max() <= 1 and whole.std() > 1  # one level of rounding


def test_advice_names_the_preview_or_the_training_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"needed by: preview; .*can't allocate.*Previews are .* before its first"):
        train_on(Cluster(workers=0), watched(tmp_path, 16, room=8))

    def short(*args: object, **kwargs: object) -> Iterator[dict[str, Tensor]]:
        raise RuntimeError(SHORT)
        yield {}

    monkeypatch.setattr("pipeline.training.trainer.iterations", short)
    with pytest.raises(UserError, match=r"needed by: training step; .*Lower runs.<run>.batch_size"):
        train_on(Cluster(workers=0), watched(tmp_path / "other", 16))


def test_what_needed_the_memory_is_told_through_text() -> None:
    """As Ray passes an error on, on several lines."""
    for what, remedy in REMEDIES.items():
        with pytest.raises(MemoryError) as raised, needed_by("training step"), needed_by(what):
            raise RuntimeError(SHORT)
        line = out_of_memory(RuntimeError(f"Worker 0:\n  RuntimeError: {SHORT}\n  MemoryError: {raised.value}\n"))
        assert line and SHORT in line and remedy_of(line) == remedy
    assert remedy_of("running low on memory") == REMEDIES["training step"]
    with pytest.raises(RuntimeError, match="shapes"), needed_by("preview"):
        raise RuntimeError("shapes cannot be multiplied")
    assert list(needing("preview", [1, None, 3])) == [1, None, 3]


def test_a_stage_after_training_names_its_own_settings() -> None:
    for stage, remedy in (("generate", "evaluate.batch_size"), ("render", "render.rows")):
        with (
            pytest.raises(UserError, match=rf"{stage} needs more memory .*{remedy}"),
            enough_memory(stage),
        ):
            raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("render"):
        raise RuntimeError("shapes cannot be multiplied")


TRAINS = """
import hashlib, sys
from dataclasses import replace
from pathlib import Path
from toy_job import job, trained_here
from pipeline.training import trainer
if sys.argv[2] == "with":
    trainer.leave_compiler_out = lambda: None
weights = trained_here(replace(job(Path(sys.argv[1])), product=1.0))
digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
print(digest, "torch._dynamo" in sys.modules or "triton" in sys.modules)
"""


def test_training_does_without_the_compiler_and_is_the_same(tmp_path: Path) -> None:
    """140 MiB and a second of each process; were torch to import it otherwise, this fails and says so."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    said = [
        subprocess.run(
            [sys.executable, "-c", TRAINS, str(tmp_path / how), how],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for how in ("without", "with")
    ]
    assert [line[1] for line in said] == ["False", "True"]
    assert said[0][0] == said[1][0], "the weights are others"
