"""What Ray Train costs: images/s of one run with one Ray worker against the same run without Ray, in turn.

    python bench/ray_cost.py [--images 60000] [--width 64] [--size 32] [--rounds 2]

images/s is images over the seconds of training (log windows, snapshots and checkpoints included),
as the product reports it; the start of a Ray cluster, which does not grow with the run, is given apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pipeline import methods
from pipeline.cluster import train_on_ray
from pipeline.config import Cluster, Run
from pipeline.core.world import World
from pipeline.files import write_json
from pipeline.journal import Journal
from pipeline.training import Job, record, train


def toy_data(folder: Path, size: int, count: int = 4096) -> None:
    """Random images in the format of out/data."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "train-images-00000.npy", rng.integers(0, 256, (count, size, size, 1), dtype=np.uint8))
    np.save(folder / "train-labels.npy", np.zeros(count, dtype=np.int64))
    splits = {"train": {"count": count, "shards": ["train-images-00000.npy"]}}
    write_json(folder / "spec.json", {"channels": 1, "size": size, "classes": ["0"], "splits": splits, "digest": "toy"})


def measured(workers: int, folder: Path, images: int, width: int, threads: int | None = None) -> tuple[float, float]:
    """(images/s of training, seconds of everything else) on ``folder/data``; ``threads`` for each process."""
    store = folder / str(workers)
    run = Run(method="dcgan", images=images, checkpoint_every=images // 4, snapshot_every=images // 8)
    method = methods.load("dcgan", width=width)
    job = Job(key="bench", run=run, method=method, data=str(folder / "data"), store=str(store))
    with Journal.open(store) as journal:
        journal.start(name="bench", key="bench", params={}, tags={})
    begin = time.monotonic()
    if workers:
        train_on_ray(job, Cluster(workers=workers, cpus_per_worker=threads), store)
    else:
        torch.set_num_threads(threads or torch.get_num_threads())
        with Journal.open(store) as journal:
            train(job, World(), lambda rows: record(journal, rows, job.snapshots))
    total = time.monotonic() - begin
    seconds = job.checkpoints.load(job.finished_at, torch.device("cpu"))["seconds"]
    return job.finished_at / seconds, total - seconds


def main(images: int, width: int, size: int, rounds: int) -> None:
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            toy_data(Path(folder) / "data", size)
            speeds = []
            for workers in (0, 1):
                speed, overhead = measured(workers, Path(folder), images, width)
                print(
                    f"round {number}: workers {workers}: {speed:.0f} images/s, {overhead:.1f} s around it", flush=True
                )
                speeds.append(speed)
            pairs.append((speeds[0], speeds[1]))
    ratios = [ray / alone for alone, ray in pairs]
    print(f"ratio with Ray / without: median {statistics.median(ratios):.3f}, all {[round(r, 3) for r in ratios]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in [("images", 60_000), ("width", 64), ("size", 32), ("rounds", 2)]:
        parser.add_argument(f"--{option}", type=int, default=default)
    main(**vars(parser.parse_args()))
