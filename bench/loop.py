"""The loop against a plain PyTorch loop of the same nets: images/s and CPU time of each, and their ratios.

    python bench/loop.py [--size 64] [--width 64] [--channels 3] [--batch 64] [--rounds 5] [--seconds 6]
    python bench/loop.py --run dcgan                # or wgan_gp, vae: the nets, data's shape and batch of params.yaml

Same networks, initial weights, batch size, Adam settings and data in memory. The plain loop is that of PyTorch's own
tutorials: one generator forward shared by both updates (DCGAN), contiguous tensors, torch.optim.Adam as it comes, float
images in memory, torch's own number of threads. The product decides its threads. Each round times one process of each,
in turn. Two ratios: of images/s, and of images per second of CPU time, which other work on the machine disturbs less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus
from torch.optim import Adam

from pipeline import SPIN, methods
from pipeline.config import PARAMS, Run, read_params, read_run
from pipeline.core.batch import ImageSpec
from pipeline.core.loop import Settings, fit
from pipeline.core.method import Method, Nets
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.nets.thin import ThinConv2d, ThinConvTranspose2d
from pipeline.training.memory import keep_freed_memory
from pipeline.training.threads import decide_threads, product_of
from pipeline.training.window import Window

# The environment without what the package sets: a plain loop's threads wait as torch's own do. It is read when torch is
# imported, so only a child process has what its parent's package set.
WITHOUT = {name: value for name, value in os.environ.items() if (name, value) != ("GOMP_SPINCOUNT", SPIN)}
IMAGES = 4096
WARM = 3  # iterations
Loop = Iterator[int]  # yields the images of each iteration


def adams(method: Any, nets: Nets, *names: str) -> list[Adam]:
    return [Adam(nets[name].parameters(), lr=method.lr, betas=(method.beta1, method.beta2)) for name in names]


def shuffled(images: Tensor, batch: int) -> Iterator[Tensor]:
    while True:
        for rows in torch.randperm(len(images)).split(batch):
            if len(rows) == batch:
                yield images[rows]


def plain_dcgan(method: Any, nets: Nets, images: Tensor, batch: int) -> Loop:
    generator, critic = nets["generator"].train(), nets["critic"].train()
    of_generator, of_critic = adams(method, nets, "generator", "critic")
    ones, zeros = torch.ones(batch, 1), torch.zeros(batch, 1)
    criterion = nn.BCEWithLogitsLoss()
    for real in shuffled(images, batch):
        critic.zero_grad()
        criterion(critic(real), ones).backward()
        fake = generator(torch.randn(batch, method.latent))
        criterion(critic(fake.detach()), zeros).backward()
        of_critic.step()
        generator.zero_grad()
        criterion(critic(fake), ones).backward()
        of_generator.step()
        yield batch


def plain_wgan_gp(method: Any, nets: Nets, images: Tensor, batch: int) -> Loop:
    generator, critic = nets["generator"].train(), nets["critic"].train()
    of_generator, of_critic = adams(method, nets, "generator", "critic")
    source = shuffled(images, batch)
    while True:
        for real in islice(source, method.critic_steps):
            critic.zero_grad()
            fake = generator(torch.randn(batch, method.latent)).detach()
            share = torch.rand(batch, 1, 1, 1)
            between = (share * real + (1 - share) * fake).requires_grad_(True)
            scores = critic(between)
            (slope,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
            penalty = method.penalty * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            (critic(fake).mean() - critic(real).mean() + penalty).backward()
            of_critic.step()
        generator.zero_grad()
        (-critic(generator(torch.randn(batch, method.latent))).mean()).backward()
        of_generator.step()
        yield batch * method.critic_steps


def plain_vae(method: Any, nets: Nets, images: Tensor, batch: int) -> Loop:
    encoder, decoder, likelihood = nets["encoder"].train(), nets["decoder"].train(), nets["likelihood"]
    adam = Adam(nets.parameters(), lr=method.lr, betas=(method.beta1, method.beta2))
    level = 2 / 255
    for real in shuffled(images, batch):
        adam.zero_grad()
        mean, log_variance = encoder(real).chunk(2, dim=1)
        decoded = decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        location = torch.atanh(decoded.clamp(-1 + 1e-6, 1 - 1e-6))
        inverse = torch.exp(-likelihood.log_scale)
        upper, lower = (real - location + level / 2) * inverse, (real - location - level / 2) * inverse
        inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-level * inverse))
        outer = torch.where(real > 1 - level / 2, -softplus(lower), inner)
        reconstruction = -torch.where(real < -1 + level / 2, logsigmoid(upper), outer).sum((1, 2, 3)).mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        (reconstruction + method.beta * kl).backward()
        adam.step()
        yield batch


PLAIN: dict[str, Callable[[Any, Nets, Tensor, int], Loop]] = {
    "dcgan": plain_dcgan,
    "wgan_gp": plain_wgan_gp,
    "vae": plain_vae,
}


def ours(run: Run, method: Method, spec: ImageSpec, split: Split) -> Loop:
    """The product's loop as training runs it: its threads, moving average, logs and gradient norms."""
    keep_freed_memory()
    world, seen = World(), 0
    product = product_of(run, method, spec)
    torch.set_num_threads(decide_threads(run, product, processes=1, available=torch.get_num_threads()))
    state, window = State.fresh(method, spec, 0, world.device), Window(0)
    stream = batches(split, seed=0, batch_size=run.batch_size, world=world)
    settings = Settings(precision=run.precision)
    for logs in fit(method, state, stream, world, seed=0, total=10**12, ema_half_life=2000.0, settings=settings):
        window.add(logs)
        yield state.seen - seen
        seen = state.seen


def chosen(args: argparse.Namespace) -> tuple[Run, Method, ImageSpec]:
    """The run, its method and the shape of its images."""
    if args.run is None:
        run = Run(method="dcgan", batch_size=args.batch, precision=args.precision)
        method = methods.load("dcgan", width=args.width, latent=100)
        return run, method, ImageSpec(channels=args.channels, size=args.size)
    params = read_params(Path(__file__).parents[1] / PARAMS)
    run, own = read_run(params, args.run)
    spec = ImageSpec(channels=1, size=params.data.size, classes=10)
    return replace(run, precision=args.precision), methods.configure(run, own, ""), spec


def of_torchs_layers(nets: Nets) -> Nets:
    """The same nets of torch's own convolutions, as one writes them down."""
    for module in nets.modules():
        for kind, own in ((ThinConv2d, nn.Conv2d), (ThinConvTranspose2d, nn.ConvTranspose2d)):
            if isinstance(module, kind):
                module.__class__ = own
    return nets


def loop_of(which: str, args: argparse.Namespace) -> Loop:
    run, method, spec = chosen(args)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, spec.size, spec.size, spec.channels), dtype=np.uint8)
    if which == "genloom":
        return ours(run, method, spec, Split(ArrayStore((pixels,)), np.zeros(IMAGES, dtype=np.int64)))
    torch.manual_seed(0)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
    return PLAIN[run.method](method, of_torchs_layers(method.build(spec)), floats, run.batch_size)


def rates(loop: Loop, seconds: float) -> tuple[float, float, int]:
    """Images/s, images per second of CPU time, and threads, after some iterations of warm-up."""
    for _ in islice(loop, WARM):
        pass
    begin, cpu, seen = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        seen += next(loop)
    return seen / (time.perf_counter() - begin), seen / (time.process_time() - cpu), torch.get_num_threads()


def in_a_process(which: str) -> tuple[float, float, int]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", which]
    environment = os.environ if which == "genloom" else WITHOUT
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main(args: argparse.Namespace) -> None:
    if args.only:
        print(json.dumps(rates(loop_of(args.only, args), args.seconds)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(args)}", flush=True)
    pairs = []
    for number in range(args.rounds):
        order = ("genloom", "plain") if number % 2 == 0 else ("plain", "genloom")
        found = {which: in_a_process(which) for which in order}
        pairs.append((found["genloom"], found["plain"]))
        said = ", ".join(
            f"{which} {rate:.0f} images/s ({cpu:.0f} per CPU second, {threads} threads)"
            for which, (rate, cpu, threads) in sorted(found.items())
        )
        print(f"round {number}: {said}", flush=True)
    for place, what in enumerate(("images/s", "images per CPU second")):
        ratios = sorted(own[place] / other[place] for own, other in pairs)
        print(f"{what}: median {statistics.median(ratios):.2f}, lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=list(PLAIN), help="a run of params.yaml in the place of the options of size")
    defaults = {"size": 64, "width": 64, "channels": 3, "batch": 64, "rounds": 5}
    for option, default in defaults.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of genloom's side alone")
    parser.add_argument("--only", choices=["genloom", "plain"])
    main(parser.parse_args())
