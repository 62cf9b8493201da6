"""images/s of 1 and 2 Ray workers, one thread each, against one process without Ray, in turn (turns.py); and what an
all-reduce costs.

    python bench/scaling.py [--turns 8] [--seconds 8] [--width 64] [--workers 1 2]

The same run and the same global batch throughout. The ideal of N workers is N times the one process, as long as the
machine has N cores that do not disturb each other.
"""

import argparse
import time

import torch
from ranks import together
from turns import Training, ratios, take_turns

from pipeline.core.world import World


def all_reduce(world: World, count: int) -> None:
    """Prints the seconds of one averaging of ``count`` floats."""
    gradients = [torch.randn(count)]
    world.average(gradients)
    begin = time.perf_counter()
    for _ in range(10):
        world.average(gradients)
    seconds = (time.perf_counter() - begin) / 10
    if world.rank == 0:
        print(f"averaging {4 * count / 2**20:6.0f} MiB over 2 processes: {1000 * seconds:.0f} ms", flush=True)


def main(turns: int, seconds: float, width: int, workers: list[int]) -> None:
    trainings = {f"{number} workers": Training(workers=number, threads=1, width=width) for number in (0, *workers)}
    speeds = take_turns(trainings, turns, seconds)
    for number in workers:
        print(ratios(speeds, f"{number} workers", "0 workers"), f"; ideal {number}", sep="", flush=True)
    for count in (10**6, 10**7, 5 * 10**7):
        together(2, all_reduce, count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    main(**vars(parser.parse_args()))
