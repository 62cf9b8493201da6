"""What sharding saves and costs: a BigGAN over two gloo processes of this machine, with and without, in turn.

    python bench/shard.py [--width 64] [--size 32] [--batch 16] [--iterations 4] [--rounds 3]

Bytes are of the tensors that a process holds between two phases (weights, moving average, Adam's moments), and of the
gradients that it brings to an optimizer's step. images/s are of the loop alone, on one thread per process.
"""

import argparse
import time
from collections.abc import Iterable

from ranks import endless, together
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.core.state import State
from pipeline.core.world import World


def measure(world: World, width: int, size: int, batch: int, iterations: int, rounds: int) -> None:
    method = methods.load("biggan", width=width, max_width=8 * width)
    spec = ImageSpec(channels=3, size=size, classes=10)
    trainings = {shard: endless(method, spec, world, batch, shard) for shard in (False, True)}
    for number in range(rounds):
        speed = {}
        for shard, (_, steps) in trainings.items():
            next(steps)  # the moments and what else is made at the first step
            begin = time.perf_counter()
            for _ in range(iterations):
                next(steps)
            speed[shard] = iterations * batch / (time.perf_counter() - begin)
        if world.rank == 0:
            print(f"round {number}: {speed[False]:.1f} images/s whole, {speed[True]:.1f} sharded: "
                  f"{speed[True] / speed[False]:.2f}", flush=True)  # fmt: skip
    for when in ("trained", "after a checkpoint"):
        for shard, (state, _) in trainings.items():
            print(f"rank {world.rank}", when, "sharded" if shard else "whole", held(state), "MiB", flush=True)
            state.state_dict()


def held(state: State) -> dict[str, int]:
    local = [o.optim if isinstance(o, ZeroRedundancyOptimizer) else o for o in state.optimizers.values()]
    moments = [value for optimizer in local for slots in optimizer.state.values()
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
    for name, value in (("width", 64), ("size", 32), ("batch", 16), ("iterations", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    together(2, measure, *vars(parser.parse_args()).values())
