"""How long a checkpoint stops training, written in line and aside; and seconds to check and to load one.

    python bench/checkpoints.py [--millions 100] [--rounds 5] [--threads 2] [--folder .]

A state as training has it: weights, moving average and Adam's two moments, four floats per parameter. Beside it a small
DCGAN trains. In each round, in turn: it trains alone, its rate is taken; a checkpoint is written as it was before there
was anything aside (torch.save to a file, the file read again to be hashed, then synced); one is written in line; one is
written aside, and training goes on until it is there. "stopped" is what the call took; "lost" is how much less was
trained than alone, until the checkpoint was there: on a machine whose cores all train, writing takes a core.
The folder's disk decides; each file is synced and hashed.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.core.loop import fit
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.files import atomic_folder, sha256_of
from pipeline.storage.aside import Aside
from pipeline.storage.checkpoint import Budgets
from pipeline.storage.store import Store
from pipeline.training.memory import keep_freed_memory

QUIET_SECONDS, BATCH = 5.0, 64
FORM = "before {:5.2f}; in line {:5.2f}; aside: stopped {:5.2f}, lost {:5.2f}, there after {:5.2f}"


def training() -> Iterator[object]:
    """A DCGAN of 16 x 16 pixels, as in the default runs."""
    pixels = np.random.default_rng(0).integers(0, 256, (4096, 16, 16, 1), dtype=np.uint8)
    method, world = methods.load("dcgan", width=32, latent=64), World()
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, world.device)
    stream = batches(Split(ArrayStore((pixels,)), np.zeros(4096, dtype=np.int64)), seed=0, batch_size=BATCH,
                     world=world)  # fmt: skip
    yield from fit(method, state, stream, world, seed=0, total=10**12, ema_half_life=2000.0)


def steps_while(loop: Iterator[object], going: Callable[[], bool]) -> tuple[int, float]:
    """How many iterations were made in how many seconds."""
    begin, count = time.perf_counter(), 0
    while going():
        next(loop)
        count += 1
    return count, time.perf_counter() - begin


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def as_before(folder: Path, content: dict[str, object]) -> None:
    """What ``Checkpoints.save`` was."""
    with atomic_folder(folder) as temporary:
        torch.save(content, temporary / "state.pt")
        sha256_of(temporary / "state.pt")
    shutil.rmtree(folder)


def one_round(loop: Iterator[object], store: Store, aside: Aside, content: dict[str, object], seen: int) -> list[float]:
    """Seconds: stopped as before and in line, where all is lost; stopped aside, lost aside, until it is there."""
    end = time.perf_counter() + QUIET_SECONDS
    quiet, seconds = steps_while(loop, lambda: time.perf_counter() < end)
    rate = quiet / seconds
    before = timed(lambda: as_before(store.folder / "before", content))
    in_line = timed(lambda: store.save(seen, content, Budgets()))
    stopped = timed(lambda: aside.save(seen + 1, content, Budgets()))
    made, beside = steps_while(loop, lambda: aside.is_busy)
    aside.finish()
    return [before, in_line, stopped, stopped + beside - made / rate, stopped + beside]


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    names = ("nets", "ema", "first", "second")
    content = {name: {str(k): torch.randn(1_000_000) for k in range(args.millions)} for name in names}
    loop, rounds = training(), []
    for _ in range(50):
        next(loop)
    print(f"{args.millions} M parameters, {args.threads} threads that train; seconds", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        store = Store(Path(place), "bench")
        with Aside(store) as aside:
            aside.prepare(content)  # as training does at its first log window
            steps_while(loop, lambda: aside.is_busy)
            for number in range(args.rounds):
                rounds.append(one_round(loop, store, aside, content, 2 * number + 1))
                print(FORM.format(*rounds[-1]),
                      flush=True)  # fmt: skip
        checked = timed(store.newest)
        newest = max(store.existing())
        read = timed(lambda: store.checkpoints.load(newest, torch.device("cpu")))
        size = sum(file.stat().st_size for file in (Path(place) / "checkpoints").rglob("state.pt")) / 2**20 / 2
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print(f"medians: {FORM}".format(*middle))
    print(f"ratios to before: in line {middle[1] / middle[0]:.2f}, stopped aside {middle[2] / middle[0]:.3f}, "
          f"lost aside {middle[3] / middle[0]:.2f}")  # fmt: skip
    print(f"{size:.0f} MiB: checked in {checked:.2f} s, read in {read:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    main(parser.parse_args())
