"""The loop against a plain PyTorch loop of the same DCGAN: images/s of each and their ratio.

    python bench/loop.py [--size 64] [--width 64] [--channels 3] [--batch 64] [--rounds 5] [--steps 12]

Same networks, initial weights, batch size, Adam settings and data in memory. The plain loop is that
of PyTorch's own DCGAN tutorial: one generator forward shared by both updates, contiguous tensors,
torch.optim.Adam as it comes, float images in memory. Each round times one process of each, in turn.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
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
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.training.memory import keep_freed_memory

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


def images_per_second(which: str, args: argparse.Namespace) -> float:
    """In this process, after three steps of warm-up."""
    spec = ImageSpec(channels=args.channels, size=args.size)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, args.size, args.size, args.channels), dtype=np.uint8)
    method = methods.load("dcgan", width=args.width, latent=100)
    if which == "genloom":
        keep_freed_memory()  # as training does
        loop = ours(method, spec, Split(ArrayStore((pixels,)), np.zeros(IMAGES, dtype=np.int64)), args.batch)
    else:
        torch.manual_seed(0)
        floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
        loop = plain(method, method.build(spec), floats, args.batch)
    for _ in islice(loop, 3):
        pass
    begin = time.perf_counter()
    for _ in islice(loop, args.steps):
        pass
    return args.batch * args.steps / (time.perf_counter() - begin)


def in_a_process(which: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(args: argparse.Namespace) -> None:
    if args.only:
        print(images_per_second(args.only, args))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(args)}", flush=True)
    pairs = []
    for number in range(args.rounds):
        pairs.append((in_a_process("genloom"), in_a_process("plain")))
        print(f"round {number}: genloom {pairs[-1][0]:.0f}, plain {pairs[-1][1]:.0f} images/s", flush=True)
    ratios = sorted(own / other for own, other in pairs)
    print(f"ratio: median {statistics.median(ratios):.2f}, lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"size": 64, "width": 64, "channels": 3, "batch": 64, "rounds": 5, "steps": 12}
    for option, default in defaults.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--only", choices=["genloom", "plain"])
    main(parser.parse_args())
