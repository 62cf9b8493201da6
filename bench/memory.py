"""Memory of the dataset on a node: worker processes that each read all of it, against its size on disk.

    python bench/memory.py [--megabytes 512] [--workers 2]

Each worker draws some epochs of batches from the memory-mapped shards, then reads all of them once more, as
some kernels page out what was not touched for seconds. Then, of Linux's accounts: "of the file" is the
proportional set size (pages divided among those that map them) of the mapped images, summed over the workers:
one copy for all of them is 1.0. "of their own" is what their private memory grew by: a copy for each worker
would be the number of workers, as floats four times that.
"""

import argparse
import multiprocessing
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil

from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches

SIZE = 64


def worker(
    folder: str, rank: int, workers: int, ready: Barrier, grown: "multiprocessing.Queue[tuple[int, int]]"
) -> None:
    process = psutil.Process()
    shard = np.load(f"{folder}/images.npy", mmap_mode="r")
    split = Split(ArrayStore((shard,)), np.zeros(len(shard), dtype=np.int64))
    stream = batches(split, seed=0, batch_size=64 * workers, world=World(rank=rank, size=workers))
    next(stream)
    before = process.memory_full_info().uss - of_the_file(process, folder)[1]
    for _ in range(8 * len(shard) // 64):  # half of eight epochs: all but a few pages are touched by every worker
        next(stream)
    ready.wait()
    shard.sum(dtype=np.int64)
    ready.wait()
    shared, private = of_the_file(process, folder)
    grown.put((shared, process.memory_full_info().uss - private - before))
    ready.wait()


def of_the_file(process: psutil.Process, folder: str) -> tuple[int, int]:
    """Bytes of the mapped images: this process's proportional share, and what it alone maps."""
    maps = [entry for entry in process.memory_maps() if entry.path.startswith(folder)]
    return sum(entry.pss for entry in maps), sum(entry.private_clean + entry.private_dirty for entry in maps)


def main(megabytes: int, workers: int) -> None:
    count = megabytes * 2**20 // SIZE**2
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.ones((count, SIZE, SIZE, 1), dtype=np.uint8))
        ready, grown = context.Barrier(workers), context.Queue()
        processes = [context.Process(target=worker, args=(folder, r, workers, ready, grown)) for r in range(workers)]
        for process in processes:
            process.start()
        shared, private = (
            sum(column) / 2**20 / megabytes for column in zip(*(grown.get() for _ in processes), strict=True)
        )
        for process in processes:
            process.join()
    print(f"{workers} workers, {megabytes} MiB of images: {shared:.3f} of the file, {private:.3f} of their own")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
