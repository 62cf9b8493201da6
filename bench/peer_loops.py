"""Training steps against other people's: images/s and images per CPU second of each, and their ratios.

    python -m pip install --no-deps --target PEERS normflows==1.7.3 pythae==0.1.2 torch-mimicry==0.1.16 \\
        tensorboard absl-py grpcio protobuf markdown werkzeug scikit-image lazy-loader imageio tifffile
    PYTHONPATH=PEERS python bench/peer_loops.py [--row sngan vae glow nsf stylegan2] [--rounds 5] [--seconds 20] \\
        [--precision bf16]

    sngan       SNGAN-ResNet, 32 x 32 x 3, widths 256 and 128, five critic steps, against torch-mimicry's nets and steps
    vae         convolutional VAE, 32 x 32 x 1, width 32, against pythae's VAE around the same encoder and decoder
    glow        Glow, 3 levels of 8 steps, width 128, 32 x 32 x 3, against normflows' model and loss
    nsf         NSF, 3 levels of 3 steps, width 32, 32 x 32 x 3, against a plain loop of the same nets whose splines are
                normflows' function (its own spline couplings are of vectors alone)
    stylegan2   StyleGAN2, 64 x 64 x 3, batch 16, against a plain loop of the same nets and losses

Each side is a process of its own, in turn, as in bench/loop.py: the other packages' threads wait as torch's own do, and
their tensors are contiguous. ``--precision`` is of genloom's side alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from loop import WITHOUT, Loop, of_torchs_layers, ours, rates, shuffled
from torch import Tensor, nn
from torch.optim import Adam

from pipeline import methods
from pipeline.config import Run
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Method, Nets
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.nets.flow.couplings import Coupling
from pipeline.nets.flow.elements import Spline

IMAGES = 2048
# By row: the method, its params, channels, size, batch.
ROWS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "sngan": ("sngan", {"width": 256, "critic_width": 128}, 3, 32, 64),
    "vae": ("vae", {"likelihood": "gaussian", "scale": 0.5}, 1, 32, 64),
    "glow": ("glow", {"levels": 3, "steps": 8, "width": 128}, 3, 32, 64),
    "nsf": ("nsf", {}, 3, 32, 64),
    "stylegan2": ("stylegan2", {}, 3, 64, 16),
}


def mimicrys(method: Any, spec: ImageSpec, split: Split, batch: int) -> Loop:
    package = ModuleType("torch_mimicry")  # its own __init__ imports tensorflow, which its scores alone need
    found = find_spec("torch_mimicry")
    assert found is not None and found.submodule_search_locations is not None, "it is not in PEERS"
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["torch_mimicry"] = package
    from torch_mimicry.nets.sngan.sngan_32 import SNGANDiscriminator32, SNGANGenerator32

    class Log(dict[str, Any]):
        def add_metric(self, name: str, value: Any, group: str | None = None) -> None:
            self[name] = float(torch.as_tensor(value).detach())

    generator, critic = SNGANGenerator32(), SNGANDiscriminator32()
    adams = [Adam(net.parameters(), 2e-4, betas=(0.0, 0.9)) for net in (generator, critic)]
    cpu, source = torch.device("cpu"), floats(split, batch)
    while True:
        for step, real in enumerate(islice(source, 5)):
            given = (real, torch.zeros(len(real), dtype=torch.int64))
            if not step:
                generator.train_step(real_batch=given, netD=critic, optG=adams[0], log_data=Log(), device=cpu)
            critic.train_step(real_batch=given, netG=generator, optD=adams[1], log_data=Log(), device=cpu)
        yield 5 * batch


def pythaes(method: Any, spec: ImageSpec, split: Split, batch: int) -> Loop:
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    nets = of_torchs_layers(method.build(spec))

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets["encoder"]

        def forward(self, images: Tensor) -> ModelOutput:
            mean, log_variance = self.net(images).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets["decoder"]

        def forward(self, latents: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(latents))

    config = VAEConfig(input_dim=(spec.channels, spec.size, spec.size), latent_dim=method.latent)
    model = VAE(config, Encoder(), Decoder()).train()
    adam = Adam(model.parameters(), lr=method.lr)
    for images in floats(split, batch):
        adam.zero_grad()
        model({"data": images}).loss.backward()
        adam.step()
        yield batch


def normflows_glow(method: Any, spec: ImageSpec, split: Split, batch: int) -> Loop:
    import normflows as nf

    levels, steps, width, channels = method.levels, method.steps, method.width, spec.channels
    bases, merges, flows = [], [], []
    for level in range(levels):
        inside = channels * 2 ** (levels + 1 - level)
        blocks = [nf.flows.GlowBlock(inside, width, split_mode="channel", scale=True) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        if level:
            merges.append(nf.flows.Merge())
        side = spec.size // 2 ** (levels - level)
        shape = (channels * 2 ** (levels - level), side, side) if level else (inside, side, side)
        bases.append(nf.distributions.DiagGaussian(shape))
    model = nf.MultiscaleFlow(bases, flows, merges).train()
    adam = Adam(model.parameters(), lr=method.lr)
    for images in floats(split, batch):
        adam.zero_grad()
        loss = -model.log_prob(images + torch.rand_like(images) / 128, None).mean()
        loss.backward()
        adam.step()
        yield batch


def normflows_splines(method: Method, spec: ImageSpec, split: Split, batch: int) -> Loop:
    from normflows.utils.splines import unconstrained_rational_quadratic_spline

    class Theirs(nn.Module):
        def __init__(self, bins: int, bound: float) -> None:
            super().__init__()
            self.parts, self.bound, self.numbers = (bins, bins, bins - 1), bound, 3 * bins - 1

        def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
            given = numbers.movedim(0, -1).split(self.parts, dim=-1)
            found: tuple[Tensor, Tensor]
            found = unconstrained_rational_quadratic_spline(x, *given, tails="linear", tail_bound=self.bound)
            return found

    nets = method.build(spec)
    for module in nets.modules():
        if isinstance(module, Coupling) and isinstance(module.element, Spline):
            module.element = Theirs(module.element.bins, module.element.bound)  # type: ignore[assignment]
    return plain(method, spec, split, batch, nets)


def plain(method: Method, spec: ImageSpec, split: Split, batch: int, built: Nets | None = None) -> Loop:
    """A plain loop of the method's own nets and losses: contiguous, an Adam as it comes, an average by hand."""
    nets = of_torchs_layers(built or method.build(spec)).train()
    means = {name: [p.detach().clone() for p in nets[name].parameters()] for name in method.sampled}
    phases = method.phases()
    adams = {phase.name: Adam(parameters_of(nets, phase.trains), method.lr) for phase in phases}  # type: ignore[attr-defined]
    world, seen = World(), 0
    for number, each in enumerate(batches(split, seed=0, batch_size=batch, world=world)):
        given = Batch(images=each.images.contiguous(), labels=each.labels, noise=each.noise)
        clock = Clock(seen=seen, total=None, iteration=number)
        for phase in phases:
            nets.requires_grad_(False)
            for net in phase.trains:
                nets[net].requires_grad_(True)
            loss, _ = phase.loss(nets, given.stream(phase.name), clock)
            adams[phase.name].zero_grad()
            loss.backward()
            adams[phase.name].step()
            with torch.no_grad():
                phase.after(nets, world)
        with torch.no_grad():
            for name, old in means.items():
                for mean, new in zip(old, nets[name].parameters(), strict=True):
                    mean.lerp_(new, 0.01)
        seen += batch
        yield batch


def parameters_of(nets: Nets, names: tuple[str, ...]) -> list[nn.Parameter]:
    return [parameter for name in names for parameter in nets[name].parameters()]


def floats(split: Split, batch: int) -> Iterator[Tensor]:
    return shuffled(split.images(np.arange(len(split))).contiguous().float().div(127.5).sub(1), batch)


THEIRS: dict[str, Callable[[Any, ImageSpec, Split, int], Loop]] = {
    "sngan": mimicrys,
    "vae": pythaes,
    "glow": normflows_glow,
    "nsf": normflows_splines,
    "stylegan2": plain,
}


def loop_of(row: str, which: str, precision: Literal["fp32", "bf16"]) -> Loop:
    name, params, channels, size, batch = ROWS[row]
    method, spec = methods.load(name, **params), ImageSpec(channels=channels, size=size)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, channels), dtype=np.uint8)
    split = Split(ArrayStore((pixels,)), np.zeros(IMAGES, dtype=np.int64))
    torch.manual_seed(0)
    if which == "genloom":
        return ours(Run(method=name, batch_size=batch, precision=precision), method, spec, split)
    return THEIRS[row](method, spec, split, batch)


def in_a_process(row: str, which: str) -> tuple[float, float, int]:
    environment = os.environ if which == "genloom" else WITHOUT
    command = [sys.executable, __file__, *sys.argv[1:], "--only", row, which]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main(args: argparse.Namespace) -> None:
    if args.only:
        print(json.dumps(rates(loop_of(*args.only, args.precision), args.seconds)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(args)}", flush=True)
    for row in args.row:
        pairs = []
        for number in range(args.rounds):
            order = ("genloom", "other") if number % 2 == 0 else ("other", "genloom")
            found = {which: in_a_process(row, which) for which in order}
            pairs.append((found["genloom"], found["other"]))
            print(f"{row} {number}: {found}", flush=True)
        for place, what in enumerate(("images/s", "images per CPU second")):
            ratios = sorted(own[place] / other[place] for own, other in pairs)
            said = f"median {statistics.median(ratios):.2f}, lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}"
            print(f"{row}: {what}: {said}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of genloom's side alone")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    main(parser.parse_args())
