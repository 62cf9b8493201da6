"""What averaging gradients during the backward pass gains over averaging them after it, on a link of a given speed.

    python bench/overlap.py [--width 64] [--batch 32] [--turns 4] [--rounds 8]

Two gloo processes of one thread each train a DCGAN over the loopback, in turn with buckets (World.averaging) and with
one bucket that holds all, which leaves only when the pass has ended. A slow link, as root, in a namespace of its own:

    ip netns add slow && ip -n slow link set lo up
    ip netns exec slow tc qdisc add dev lo root tbf rate 1gbit burst 256k latency 400ms
    ip netns exec slow python bench/overlap.py && ip netns delete slow
"""

import argparse
import statistics
import time

import torch.distributed as dist
from ranks import endless, together

from pipeline import methods
from pipeline.core import world as world_module
from pipeline.core.batch import ImageSpec
from pipeline.core.world import World

BUCKETS = {"during": world_module.BUCKET, "after": 2**62}


def measure(world: World, width: int, batch: int, turns: int, rounds: int) -> None:
    method = methods.load("dcgan", width=width)
    _, steps = endless(method, ImageSpec(channels=3, size=32, classes=0), world, batch)
    next(steps)  # the moments and what else is made at the first step
    found: dict[str, list[float]] = {when: [] for when in BUCKETS}
    for number in range(rounds):
        for when in list(BUCKETS)[:: 1 if number % 2 == 0 else -1]:
            world_module.BUCKET = BUCKETS[when]
            dist.barrier()
            begin = time.perf_counter()
            for _ in range(turns):
                next(steps)
            found[when].append((time.perf_counter() - begin) / turns)
    if world.rank == 0:
        each = [during / after for during, after in zip(found["during"], found["after"], strict=True)]
        for when, seconds in found.items():
            print(f"averaging {when} the backward pass: {1000 * statistics.median(seconds):.0f} ms a turn")
        print(f"time, during / after: median {statistics.median(each):.3f} ({min(each):.2f} to {max(each):.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("width", 64), ("batch", 32), ("turns", 4), ("rounds", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    together(2, measure, *vars(parser.parse_args()).values())
