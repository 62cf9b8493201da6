"""images/s of 1 and 2 Ray workers, one thread each, against one process without Ray; and what an all-reduce costs.

    python bench/scaling.py [--images 12000] [--width 64] [--workers 1 2]

The same run and the same global batch throughout. The ideal of N workers is N times the one process, as long as the
machine has N cores that do not disturb each other.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ray_cost import measured, toy_data

from pipeline.core.world import World


def all_reduce(rank: int, size: int, folder: str, count: int, queue: "mp.SimpleQueue[float]") -> None:
    """Puts the seconds of one averaging of ``count`` floats over ``size`` processes of this machine."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    world, gradients = World.joined(torch.device("cpu")), [torch.randn(count)]
    world.average(gradients)
    begin = time.perf_counter()
    for _ in range(10):
        world.average(gradients)
    if rank == 0:
        queue.put((time.perf_counter() - begin) / 10)
    dist.destroy_process_group()


def main(images: int, width: int, workers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        toy_data(Path(folder) / "data", 32)
        alone = 0.0
        for number in (0, *workers):
            speed, _ = measured(number, Path(folder), images, width, threads=1)
            alone = alone or speed
            ideal = alone * max(number, 1)
            print(f"workers {number}: {speed:5.0f} images/s, ideal {ideal:5.0f}, ratio {speed / ideal:.2f}", flush=True)
    for count in (10**6, 10**7, 5 * 10**7):
        queue = mp.get_context("spawn").SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(all_reduce, args=(2, folder, count, queue), nprocs=2)
        print(f"averaging {4 * count / 2**20:6.0f} MiB over 2 processes: {1000 * queue.get():.0f} ms", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    main(**vars(parser.parse_args()))
