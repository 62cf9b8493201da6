"""Images sent as they are needed (cluster.stream) against images read where they lie.

    python bench/stream.py [--size 128] [--images 20000] [--batch 64] [--seconds 20] [--workers 2]

A Ray cluster of this machine: one actor reads the images, workers draw batches and do nothing else, first from the
memory-mapped shards, then through the actor. No network is between them, so it shows what the actor and Ray can give.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from pipeline.cluster.driver import ENVIRONMENT
from pipeline.cluster.image_server import start_image_server
from pipeline.core.batch import ImageSpec
from pipeline.core.world import World
from pipeline.data.dataset import Source, Unwritten, open_dataset, write_dataset
from pipeline.data.stream import batches

BLOCK = 1000


def drawn(folder: str, elsewhere: Source | None, rank: int, size: int, batch: int, seconds: float) -> float:
    """Images per second of one worker."""
    split = open_dataset(Path(folder), elsewhere).splits["train"]  # type: ignore[arg-type]
    stream = batches(split, seed=0, batch_size=batch * size, world=World(rank=rank, size=size))
    next(stream)
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        count += len(next(stream).images)
    return count / (time.monotonic() - begin)


def main(size: int, images: int, batch: int, seconds: float, workers: int) -> None:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        blocks = (random.integers(0, 256, (BLOCK, size, size, 3), dtype=np.uint8) for _ in range(images // BLOCK))
        train = Unwritten(labels=np.zeros(images // BLOCK * BLOCK, dtype=np.int64), blocks=blocks)
        data = Path(folder) / "data"
        spec = ImageSpec(channels=3, size=size, classes=1)
        write_dataset(data, source="random", spec=spec, classes=["random"], splits={"train": train})
        ray.init(address="local", include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}})
        worker = ray.remote(num_cpus=0)(drawn)
        for name, elsewhere in (("read where they lie", None), ("sent by the actor", start_image_server(str(data)))):
            asked = [worker.remote(str(data), elsewhere, rank, workers, batch, seconds) for rank in range(workers)]
            speed = sum(ray.get(asked))
            print(f"{name}: {speed:,.0f} images/s, {speed * size * size * 3 / 2**20:,.0f} MiB/s")
        ray.shutdown()


if __name__ == "__main__":
    import os

    os.environ |= ENVIRONMENT
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
