"""What sharding saves and costs: a BigGAN over two gloo processes of this machine, with and without, in turn.

    python bench/shard.py [--width 64] [--size 32] [--batch 16] [--turns 4] [--rounds 3]

Bytes are of the tensors that a process holds between two phases (weights, moving average, Adam's moments), and the
gradients that it brings to an optimizer's step. images/s are of the loop alone, on one thread per process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import repeat

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from pipeline import methods
from pipeline.core import batch_norm
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.loop import fit
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World


def rank(rank: int, folder: str, width: int, size: int, batch: int, turns: int, rounds: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    world = World.joined(torch.device("cpu"))
    trainings = {shard: training(world, width, size, batch, shard) for shard in (False, True)}
    for number in range(rounds):
        speed = {}
        for shard, (_, steps) in trainings.items():
            next(steps)  # the moments and what else is made at the first step
            begin = time.perf_counter()
            for _ in range(turns):
                next(steps)
            speed[shard] = turns * batch / (time.perf_counter() - begin)
        if rank == 0:
            print(f"round {number}: {speed[False]:.1f} images/s whole, {speed[True]:.1f} sharded: "
                  f"{speed[True] / speed[False]:.2f}", flush=True)  # fmt: skip
    if rank == 0:
        for shard, (state, _) in trainings.items():
            print("sharded" if shard else "whole", held(state), "MiB", flush=True)
    dist.destroy_process_group()


def training(world: World, width: int, size: int, batch: int, shard: bool) -> tuple[State, Iterator[object]]:
    """A state and the turns that move it."""
    method = methods.load("biggan", width=width, max_width=8 * width)
    state = State.fresh(method, ImageSpec(channels=3, size=size, classes=10), 0, world.device)
    batch_norm.synchronize(state.nets, world)
    if shard:
        state.shard(world)
    noise = Noise(0, torch.arange(batch // world.size) + world.rank * batch // world.size)
    one = Batch(images=noise.uniform("images", 3, size, size) * 2 - 1, labels=noise.ids % 10, noise=noise)
    return state, fit(method, state, repeat(one), world, seed=0, total=10**9, ema_half_life=1000)


def held(state: State) -> dict[str, int]:
    moments = [value for optimizer in state.optimizers.values() for slots in optimizer.state.values()
               for name, value in slots.items() if name != "step"]  # fmt: skip
    weights = [parameter.data for parameter in state.nets.parameters()]
    averages = [parameter.data for parameter in state.ema.parameters()]
    kinds = {"weights": weights, "averages": averages, "moments": moments, "gradients, as weights": weights}
    found = {name: mebibytes(tensors) for name, tensors in kinds.items()}
    return found | {"sum": sum(found.values())}


def mebibytes(tensors: Iterable[Tensor]) -> int:
    return round(sum(tensor.untyped_storage().nbytes() for tensor in tensors) / 2**20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("width", 64), ("size", 32), ("batch", 16), ("turns", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank, args=(folder, *vars(parser.parse_args()).values()), nprocs=2)
