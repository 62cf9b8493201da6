"""Memory of the dataset on a node: worker processes that each read all of it, against its size on disk.

    python bench/memory.py [--megabytes 512] [--workers 2]

Each worker draws some epochs of batches from the memory-mapped shards. "shared" is what the workers'
proportional set sizes (Linux: pages divided among those that map them) grew by, summed: one copy of the
images is 1.0, one copy for each worker would be the number of workers, floats four times that.
"""

import argparse
import multiprocessing
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil

from pipeline.core.world import World
from pipeline.data.shards import Split
from pipeline.data.stream import batches

SIZE = 64


def worker(folder: str, rank: int, workers: int, ready: Barrier, grown: "multiprocessing.Queue[int]") -> None:
    process = psutil.Process()
    shard = np.load(f"{folder}/images.npy", mmap_mode="r")
    split = Split((shard,), np.zeros(len(shard), dtype=np.int64))
    stream = batches(split, seed=0, batch_size=64 * workers, world=World(rank=rank, size=workers))
    next(stream)
    ready.wait()  # the libraries, too, are shared only among processes that are there
    before = process.memory_full_info().pss
    for _ in range(8 * len(shard) // 64):  # half of eight epochs: all but a few pages are touched by every worker
        next(stream)
    ready.wait()
    grown.put(process.memory_full_info().pss - before)
    ready.wait()


def main(megabytes: int, workers: int) -> None:
    count = megabytes * 2**20 // SIZE**2
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.ones((count, SIZE, SIZE, 1), dtype=np.uint8))
        ready, grown = context.Barrier(workers), context.Queue()
        processes = [context.Process(target=worker, args=(folder, r, workers, ready, grown)) for r in range(workers)]
        for process in processes:
            process.start()
        total = sum(grown.get() for _ in processes)
        for process in processes:
            process.join()
    print(
        f"{workers} workers, {megabytes} MiB of images: {total / 2**20:.0f} MiB, {total / 2**20 / megabytes:.2f} times"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
