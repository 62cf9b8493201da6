"""The loop against a plain PyTorch loop of the same DCGAN: images/s and their ratio, interleaved in one process.

    python bench/loop.py [--size 32] [--width 64] [--channels 1] [--batch 64] [--rounds 10] [--steps 8]

Same networks, initial weights, batch size, Adam settings and data in memory. The plain loop is the
one of PyTorch's own DCGAN tutorial: one generator forward shared by both updates, contiguous
tensors, torch.optim.Adam as it comes, float images in memory.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.optim import Adam

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.core.loop import fit
from pipeline.core.method import Method, Nets
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.shards import Split
from pipeline.data.stream import batches

IMAGES = 4096


def plain(method: Method, nets: Nets, images: torch.Tensor, batch_size: int) -> Iterator[None]:
    """The tutorial's loop; yields after each iteration."""
    generator, critic = nets["generator"].train(), nets["critic"].train()
    settings = {"lr": method.lr, "betas": (method.beta1, method.beta2)}
    generator_adam, critic_adam = (Adam(net.parameters(), **settings) for net in (generator, critic))
    criterion = nn.BCEWithLogitsLoss()
    while True:
        for rows in torch.randperm(len(images)).split(batch_size):
            if len(rows) < batch_size:
                continue
            real = images[rows]
            ones, zeros = torch.ones(batch_size, 1), torch.zeros(batch_size, 1)
            critic.zero_grad()
            criterion(critic(real), ones).backward()
            fake = generator(torch.randn(batch_size, method.latent))
            criterion(critic(fake.detach()), zeros).backward()
            critic_adam.step()
            generator.zero_grad()
            criterion(critic(fake), ones).backward()
            generator_adam.step()
            yield


def ours(method: Method, spec: ImageSpec, split: Split, batch_size: int) -> Iterator[None]:
    """The product's loop, with its moving average, logs and gradient norms."""
    world = World()
    state = State.fresh(method, spec, 0, world.device)
    stream = batches(split, seed=0, batch_size=batch_size, world=world)
    for _ in fit(method, state, stream, world, seed=0, total=10**12, ema_half_life=2000.0):
        yield


def seconds(loop: Iterator[None], steps: int) -> float:
    begin = time.perf_counter()
    for _ in islice(loop, steps):
        pass
    return time.perf_counter() - begin


def compare(first: Callable[[], Iterator[None]], second: Callable[[], Iterator[None]], rounds: int, steps: int) -> None:
    a, b = first(), second()
    for loop in (a, b):
        seconds(loop, 3)
    pairs = [(seconds(a, steps), seconds(b, steps)) for _ in range(rounds)]
    ratios = sorted(other / own for own, other in pairs)
    print(f"ratio: median {statistics.median(ratios):.2f}, lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}")
    for name, column in (("genloom", 0), ("plain", 1)):
        print(f"{name}: median {ARGS.batch * steps / statistics.median(p[column] for p in pairs):.0f} images/s")


def main() -> None:
    spec = ImageSpec(channels=ARGS.channels, size=ARGS.size)
    shape = (IMAGES, ARGS.size, ARGS.size, ARGS.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = Split((pixels,), np.zeros(IMAGES, dtype=np.int64))
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
    method = methods.load("dcgan", width=ARGS.width, latent=100)
    torch.manual_seed(0)
    nets = copy.deepcopy(method.build(spec))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ARGS}")
    compare(
        lambda: ours(method, spec, split, ARGS.batch),
        lambda: plain(method, nets, floats, ARGS.batch),
        ARGS.rounds,
        ARGS.steps,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in [("size", 32), ("width", 64), ("channels", 1), ("batch", 64), ("rounds", 10), ("steps", 8)]:
        parser.add_argument(f"--{option}", type=int, default=default)
    ARGS = parser.parse_args()
    main()
