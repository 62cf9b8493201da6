"""Taking images in and feeding them: against a plain loop over Pillow, and against torch's DataLoader.

    python bench/data.py normalize [--images 10000] [--side 512] [--size 64] [--turns 5]
    python bench/data.py memory [--images 10000 100000]
    python bench/data.py feed [--turns 5]
    python bench/data.py wait [--images 250000] [--size 64]

normalize: a folder of JPEGs, by the stages' own functions and by a loop of one process that opens, converts and
resizes each with Pillow, in turn; a part of the images at each turn. memory: the peak of a process that normalizes so
many small images, and what lies on the disk then. feed: batches of 64 of 32 x 32 images, by data/stream.py and by a
DataLoader over torchvision's ImageFolder and MNIST, without a worker and with two. wait: the share of the time that the
training of a small DCGAN waits for images, of a dataset that is memory-mapped; under a limit of memory smaller than the
dataset it shows what reading ahead is worth.
"""

import argparse
import json
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from pipeline import methods
from pipeline.config import Run
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.world import World
from pipeline.data.dataset import NewSplit, open_dataset, write_dataset
from pipeline.data.stream import batches
from pipeline.ingest.listing import write_listing
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.originals import list_files
from pipeline.ingest.shards import Work
from pipeline.ingest.source import Origin
from pipeline.ingest.sources.image_folder import SOURCE
from pipeline.training import trainer as training
from pipeline.training.job import Job


def photographs(folder: Path, count: int, side: int) -> None:
    """Smooth, noisy JPEGs of the size that photographs of these many pixels have."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = large + random.normal(0, 8, large.shape).astype(np.float32)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:07}.jpg", quality=90)


def take_in(photos: Path, work: Path, size: int) -> dict[str, int]:
    """The stages own, download and normalize, without DVC."""
    origin = Origin(paths=(str(photos),), folder=work, listing=work / "listing.csv", downloads=work / "downloads")
    write_listing(work / "listing.csv", list_files(origin.paths, work, work / "hashes.sqlite"))
    (work / "raw").mkdir(exist_ok=True)
    SOURCE.download(origin, work / "raw")
    with SOURCE.open(work / "raw", origin) as raw:
        info = normalize(
            raw, work / "data", work / "images", Normalization(channels=3, size=size),
            source="image_folder", test_fraction=0.1, work=Work(folder=work / "shards", identity=""),
        )  # fmt: skip
    return {name: split["count"] for name, split in info["splits"].items()}


def plainly(photos: Path, size: int) -> int:
    """One process, one thread: what a script without this project would do."""
    images = []
    for path in sorted(photos.iterdir()):
        with Image.open(path) as image:
            square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(square))
    np.save(photos.parent / "plain.npy", np.stack(images))
    return len(images)


def in_turn(turns: int, ours: Callable[[], float], theirs: Callable[[], float]) -> None:
    """Print the median ratio of their time to ours, and its range."""
    ratios = []
    for turn in range(turns):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        taken = {first: first(), second: second()}
        ratios.append(taken[theirs] / taken[ours])
        print(
            f"  turn {turn}: ours {taken[ours]:.2f} s, the other {taken[theirs]:.2f} s, {ratios[-1]:.2f} times",
            flush=True,
        )
    print(f"  {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bench_normalize(images: int, side: int, size: int, turns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder, f"part{turn}", "photos") for turn in range(turns)]
        for part in parts:
            photographs(part, images // turns, side)
        print(f"{images // turns} JPEGs of {side} px to {size} px in each turn, files in the page cache")
        turn = iter(range(2 * turns))

        def ours() -> float:
            place = parts[next(turn) // 2].parent
            return timed(lambda: take_in(place / "photos", place, size))

        def theirs() -> float:
            return timed(lambda: plainly(parts[next(turn) // 2], size))

        in_turn(turns, ours, theirs)


def bench_memory(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            photographs(Path(folder, "photos"), count, 96)
            command = [sys.executable, __file__, "one", folder]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            made = sum(path.stat().st_size for path in Path(folder, "data").rglob("*"))
            others = [path for path in Path(folder).rglob("*") if path.is_file() and "photos" not in path.parts]
            disk = sum({path.stat().st_ino: path.stat().st_size for path in others}.values())
            print(
                f"{count:,} images: peak memory {told['peak_mib']:,.0f} MiB ({told['before_mib']:,.0f} before), "
                f"{told['seconds']:.0f} s, shards {made / 2**20:,.1f} MiB, on the disk {disk / made:.3f} times that",
                flush=True,
            )


def one(folder: str) -> None:
    """In a process of its own: normalizes and tells its peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = timed(lambda: take_in(Path(folder, "photos"), Path(folder), 64))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before_mib": before, "peak_mib": peak, "seconds": seconds}))


def bench_feed(turns: int, batch: int = 64, count: int = 20_000) -> None:
    """In turn: our stream, and a DataLoader over ImageFolder (PNGs of that size) and over MNIST (28 px, resized)."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (files := Path(folder, "files", "a")).mkdir(parents=True)
        for number in range(4000):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(files / f"{number:05}.png")
        digits = random.integers(0, 256, (4000, 28, 28), dtype=np.uint8)
        (raw := Path(folder, "MNIST", "raw")).mkdir(parents=True)
        for split in ("train", "t10k"):
            header = struct.pack(">4i", 0x803, len(digits), 28, 28)
            (raw / f"{split}-images-idx3-ubyte").write_bytes(header + digits.tobytes())
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(
                struct.pack(">2i", 0x801, len(digits)) + bytes(len(digits))
            )
        as_people_do = Compose([Resize(32), ToTensor(), Normalize(0.5, 0.5)])
        others = {
            ("ImageFolder of 32 x 32 PNGs", 3): ImageFolder(files.parent, Compose([ToTensor(), Normalize(0.5, 0.5)])),
            ("MNIST resized to 32 x 32", 1): MNIST(folder, transform=as_people_do),
        }
        for (name, channels), dataset in others.items():
            images = random.integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)
            spec = ImageSpec(channels=channels, size=32, classes=1)
            train = NewSplit(labels=np.zeros(count, dtype=np.int64), blocks=[images])
            write_dataset(Path(folder, "data"), source="random", spec=spec, classes=["a"], splits={"train": train})
            split_of = open_dataset(Path(folder, "data")).splits["train"]
            stream = batches(split_of, seed=0, batch_size=batch, world=World(0, 1))

            def ours(stream: Iterator[Batch] = stream) -> float:
                """Seconds for 10,000 images."""
                return timed(lambda: [next(stream) for _ in range(count // batch)]) * 10_000 / count

            for workers in (0, 2):
                loader = DataLoader(
                    dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
                )

                def theirs(loader: DataLoader[torch.Tensor] = loader) -> float:
                    return timed(lambda: list(loader)) * 10_000 / (len(loader) * batch)

                print(f"batches of {batch} in [-1, 1], DataLoader over {name}, {workers} workers, s for 10,000 images")
                theirs(), ours()
                in_turn(turns, ours, theirs)


def bench_wait(count: int, size: int, shown: int = 20_000) -> None:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        spec = ImageSpec(channels=3, size=size, classes=1)
        blocks = (random.integers(0, 256, (2500, size, size, 3), dtype=np.uint8) for _ in range(count // 2500))
        train = NewSplit(labels=np.zeros(count // 2500 * 2500, dtype=np.int64), blocks=blocks)
        write_dataset(Path(folder, "data"), source="random", spec=spec, classes=["a"], splits={"train": train})
        images = size * size * 3 * count
        run = Run(method="dcgan", images=shown, batch_size=64, watch_every=0, log_every=shown, snapshot_every=shown)
        job = Job(
            key="bench", run=run, method=methods.load("dcgan", width=16), data=f"{folder}/data", store=f"{folder}/store"
        )
        training.train(job, World(0, 1), report=lambda rows: None)
        content = job.checkpoints.load(job.goal, torch.device("cpu"))
        print(
            f"{count:,} images of {size} px, {images / 2**30:.2f} GiB: {shown:,} shown in {content['seconds']:.1f} s, "
            f"waiting for images {100 * content['waited'] / content['seconds']:.2f}% of it"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("normalize", "memory", "feed", "wait", "one"))
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    if given.what == "normalize":
        bench_normalize(given.images[0], given.side, given.size, given.turns)
    elif given.what == "memory":
        bench_memory(given.images)
    elif given.what == "feed":
        bench_feed(given.turns)
    elif given.what == "wait":
        bench_wait(given.images[0], given.size)
    else:
        one(given.folder)
