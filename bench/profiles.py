"""Where the time of an iteration goes, by method, beside what this machine could do.

    python bench/profiles.py [--methods dcgan biggan ...] [--iterations 5] [--size 32] [--batch 64] [--precision fp32]

Images of 32 x 32 x 3 pixels of noise in ten classes; each method with its own defaults of params. A process each, so
that none finds another's memory. One run's own account, with a trace, is `genloom profile RUN`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline import methods
from pipeline.config import Run
from pipeline.core.world import default_device
from pipeline.data.dataset import open_dataset
from pipeline.files import write_json
from pipeline.training.job import Job
from pipeline.training.profile import COLUMNS, profile

METHODS = ("dcgan", "wgan_gp", "sngan", "biggan", "stylegan2", "vae", "glow")
COUNT = 2048


def toy_data(folder: Path, size: int) -> None:
    """Random images in the format of out/data."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "train-images-00000.npy", rng.integers(0, 256, (COUNT, size, size, 3), dtype=np.uint8))
    np.save(folder / "train-labels.npy", rng.integers(0, 10, COUNT))
    splits = {"train": {"count": COUNT, "shards": ["train-images-00000.npy"]}}
    classes = [str(number) for number in range(10)]
    write_json(folder / "spec.json", {"channels": 3, "size": size, "classes": classes, "splits": splits,
                                      "digest": "toy"})  # fmt: skip


def main(args: argparse.Namespace) -> None:
    if len(args.methods) > 1:
        for name in args.methods:
            rest = [f"--{key}={value}" for key, value in vars(args).items() if key != "methods"]
            subprocess.run([sys.executable, __file__, *rest, "--methods", name], check=False)
        return
    with tempfile.TemporaryDirectory() as place:
        folder, name = Path(place), args.methods[0]
        toy_data(folder / "data", args.size)
        run = Run(method=name, batch_size=args.batch, precision=args.precision)
        job = Job(key="bench", run=run, method=methods.load(name), data=str(folder / "data"),
                  store=str(folder / "store"), data_on_device=0.3)  # fmt: skip
        found = profile(job, open_dataset(folder / "data"), default_device(), args.iterations)
    machine = f"{found.rates.flops / 1e9:,.0f} GFLOP/s, {found.rates.bandwidth / 1e9:,.1f} GB/s"
    print(f"\n{name}: {found.images / found.seconds:,.1f} images/s; this machine: {machine}\n")
    for row in (COLUMNS, ["---"] * len(COLUMNS), *found.table):
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    main(parser.parse_args())
