"""flow_matching: its step against its net's own, its sampling against flow_matching's loop, few steps after reflow.

    python bench/flow_matching.py step [--size 16] [--width 32] [--batch 64] [--rounds 9]
    python bench/flow_matching.py bf16 [the same options]
    python bench/flow_matching.py sample [--samples 1000] [--size 32] [--steps 20] [--rounds 3] --peer FOLDER
    python bench/flow_matching.py reflow [--data out/data] [--run out/runs/flow_matching] [--pairs 20000]

step: whole iterations of the loop (noise, dequantization, loss, gradients, Adam, the moving average), and forward and
backward passes of the same U-Net alone, in turn. bf16: iterations in bfloat16 with our group norm and with torch's, in
turn; then in float32. sample: what `genloom sample` draws, and `ODESolver.sample` of the
package flow_matching (pip install --target FOLDER flow_matching torchdiffeq) on the same net and times, Euler steps, in
turn; once as its documentation has it, all images at once in the net's usual memory, and once in batches as ours.
reflow: straightens a run of flow_matching that `dvc repro` has trained, and prints FID by the number of Euler steps, of
2,000 samples against 5,000 training images.

Seconds are of CPU time, so that others' work on the machine matters less; set OMP_NUM_THREADS=1.
"""

import argparse
import statistics
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

from pipeline import methods
from pipeline.core.batch import Batch, ImageSpec, to_uint8
from pipeline.core.loop import Settings, fit
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split, open_dataset
from pipeline.data.stream import batches
from pipeline.evaluate import extractors
from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.families.continuous_flow import moments
from pipeline.inference.generate import samples
from pipeline.inference.weights import Trained, load_tensors, load_weights
from pipeline.nets.layers import GroupNorm

CPU = torch.device("cpu")
SHAPE = ("width", "max_width", "levels", "blocks", "attention", "class_conditional")


def ratios(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    """Print how much more CPU time theirs takes than ours: of each round, and the median."""
    seconds: list[tuple[float, float]] = []
    for turn in range(rounds + 1):
        times = {}
        for part in (ours, theirs) if turn % 2 else (theirs, ours):
            begin = time.process_time()
            part()
            times[part] = time.process_time() - begin
        if turn:  # the first one warms up
            seconds.append((times[ours], times[theirs]))
    found = sorted(b / a for a, b in seconds)
    ours_s, theirs_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"{name}: {ours_s:.3f} s ours, {theirs_s:.3f} s theirs; theirs / ours {statistics.median(found):.3f} "
        f"({found[0]:.3f} to {found[-1]:.3f})",
        flush=True,
    )


def noise_images(count: int, size: int, channels: int) -> Split:
    array = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return Split(ArrayStore((array,)), np.arange(count, dtype=np.int64) % 10)


def loop_of(args: argparse.Namespace, coupling: str, precision: str = "fp32", *, torchs: bool = False) -> Iterator[Any]:
    """Whole iterations; torchs: with torch's own group norm."""
    method = methods.load("flow_matching", width=args.width, coupling=coupling)
    state = State.fresh(method, ImageSpec(channels=1, size=args.size, classes=10), 0, CPU)
    for module in state.nets.modules():
        if torchs and isinstance(module, GroupNorm):
            module.__class__ = nn.GroupNorm
    stream = batches(noise_images(4096, args.size, 1), seed=0, batch_size=args.batch, world=World())
    settings = Settings(precision=precision)
    return fit(method, state, stream, World(), seed=0, total=10**9, ema_half_life=2000.0, settings=settings)


def bf16(args: argparse.Namespace) -> None:
    def steps(loop: Iterator[Any]) -> Callable[[], object]:
        return lambda: [None for _ in islice(loop, args.steps)]

    ours, theirs = (loop_of(args, "independent", "bf16", torchs=torchs) for torchs in (False, True))
    name = f"{args.steps} steps of {args.size} pixels in bfloat16"
    ratios(f"{name}, theirs with torch's group norm", steps(ours), steps(theirs), args.rounds)
    plain = loop_of(args, "independent")
    ratios(f"{name}, theirs in float32", steps(ours), steps(plain), args.rounds)


def step(args: argparse.Namespace) -> None:
    for coupling in ("independent", "optimal"):
        method = methods.load("flow_matching", width=args.width, coupling=coupling)
        spec = ImageSpec(channels=1, size=args.size, classes=10)
        loop = loop_of(args, coupling)
        net = State.fresh(method, spec, 0, CPU).nets["velocity"]
        x, times, labels = (
            torch.randn(args.batch, 1, args.size, args.size),
            torch.rand(args.batch),
            torch.arange(args.batch),
        )

        def alone(net: nn.Module = net, x: Tensor = x, times: Tensor = times, labels: Tensor = labels % 10) -> None:
            for _ in range(args.steps):
                net.zero_grad(set_to_none=True)
                net(x, times, labels).square().mean().backward()

        def whole(loop: Iterator[Any] = loop) -> None:
            for _ in islice(loop, args.steps):
                pass

        ratios(f"{args.steps} forward and backward passes against steps, {coupling}", alone, whole, args.rounds)


def sample(args: argparse.Namespace) -> None:
    if not args.peer:
        raise SystemExit("--peer: name the folder in which the package flow_matching lies")
    sys.path.insert(0, args.peer)  # before this file, which has its name
    from flow_matching.solver import ODESolver

    method = methods.load("flow_matching", width=args.width, solver="euler", sampling_steps=args.steps)
    spec = ImageSpec(channels=args.channels, size=args.size, classes=10)
    nets = State.fresh(method, spec, 0, CPU).nets.eval()
    trained = Trained(method=method, nets=nets, spec=spec, seen=0, name="flow_matching", params={})
    plain = method.build(spec)["velocity"]
    plain.load_state_dict(nets["velocity"].state_dict())
    plain.eval()
    ids = torch.arange(args.samples)
    shape, grid = (spec.channels, spec.size, spec.size), torch.tensor(moments(args.steps))

    def like(rows: Tensor) -> Batch:
        return Batch(images=torch.zeros(len(rows), *shape), labels=rows % 10, noise=Noise(0, rows))

    def ours(trained: Trained = trained, batch: int = args.batch) -> Tensor:
        return torch.cat(list(samples(trained, map(like, ids.split(batch)))))

    def theirs(batch: int, guidance: float = 1.0) -> Tensor:
        parts = []
        for rows in ids.split(batch):

            def velocity(x: Tensor, t: Tensor, rows: Tensor = rows) -> Tensor:
                given = plain(x, t.expand(len(x)), rows % 10)
                if guidance == 1.0:
                    return given
                free = plain(x, t.expand(len(x)), torch.full_like(rows, 10))
                return free + guidance * (given - free)

            solver = ODESolver(velocity_model=velocity)
            parts.append(solver.sample(torch.randn(len(rows), *shape), step_size=None, method="euler", time_grid=grid))
        return to_uint8(torch.cat(parts))

    name = f"{args.samples} samples of {args.size} pixels, {args.steps} steps"
    ratios(f"{name}, theirs all at once", ours, lambda: theirs(args.samples), args.rounds)
    ratios(f"{name}, theirs in batches of {args.batch}", ours, lambda: theirs(args.batch), args.rounds)
    guided = replace(trained, method=replace(method, guidance=2.0))  # type: ignore[type-var]
    ratios(f"{name}, guided, theirs all at once", lambda: ours(guided), lambda: theirs(args.samples, 2.0), args.rounds)


def learnt(method: Any, split: Split, spec: ImageSpec, shown: int, initial: dict[str, Tensor] | None = None) -> State:
    state, begin = State.fresh(method, spec, 0, CPU, initial=initial), time.process_time()
    stream = batches(split, seed=0, batch_size=64, world=World())
    for _ in fit(method, state, stream, World(), seed=0, total=shown, ema_half_life=4000.0):
        pass
    print(f"trained on {state.seen:,} images in {time.process_time() - begin:.0f} CPU seconds", flush=True)
    return state


def reflow(args: argparse.Namespace) -> None:
    dataset = open_dataset(Path(args.data))
    split, spec = dataset.splits["train"], dataset.spec
    file = Path(args.run, "weights.safetensors")
    teacher = load_weights(file)
    shape = {key: value for key, value in teacher.params.items() if key in SHAPE}
    method = methods.load("reflow", **shape, lr=1e-3, schedule="cosine")
    straightened = learnt(method, split, spec, args.pairs, load_tensors(file))
    classes = max(spec.classes, 1)
    extractor = extractors.load("efficientnet_lite0")

    def statistics_of(images: Iterator[Tensor]) -> Statistics:
        return Statistics.of(torch.cat([extractor(part).pooled for part in images]))

    real = statistics_of(iter(split.images(range(min(5000, len(split)))).split(100))).factorized()
    for name, nets in (("flow_matching", teacher.nets), ("reflow", straightened.averaged().eval())):
        ids = torch.arange(args.samples)
        with torch.no_grad():
            latents = Noise(0, ids[:500]).normal("latent", spec.channels * spec.size**2)
            bent = float(replace(method, sampling_steps=50).straightness(nets, latents, ids[:500] % classes).mean())
        print(f"{name}: mean squared deviation of the velocity from the chord {bent:.4f}", flush=True)
        for steps in (1, 2, 5, 10, 100):
            chosen = replace(method, solver="euler", sampling_steps=steps)
            trained = Trained(method=chosen, nets=nets, spec=spec, seen=0, name=name, params={})
            like = (
                Batch(
                    images=torch.zeros(len(rows), spec.channels, spec.size, spec.size),
                    labels=rows % classes,
                    noise=Noise(0, rows),
                )
                for rows in ids.split(100)
            )
            distance = frechet_distance(real, statistics_of(samples(trained, like)))
            print(f"{name}, {steps} Euler steps: FID {distance:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "bf16", "sample", "reflow"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--run", default="out/runs/flow_matching")
    parser.add_argument("--peer")
    parser.add_argument("--data", default="out/data")
    args = parser.parse_args()
    args.size = args.size or {"sample": 32}.get(args.what, 16)
    args.width = args.width or 32
    args.samples = args.samples or {"reflow": 2000}.get(args.what, 1000)
    {"step": step, "bf16": bf16, "sample": sample, "reflow": reflow}[args.what](args)


if __name__ == "__main__":
    main()
