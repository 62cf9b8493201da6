"""What the tests share: toy data, and gloo ranks."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipeline.core.batch import Batch
from pipeline.core.method import Method
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split, open_dataset
from pipeline.ingest.listing import write_listing
from pipeline.ingest.originals import list_files
from pipeline.ingest.source import Origin

ROOT = Path(__file__).parent.parent


def toy_batch(count: int = 8, *, channels: int = 1, size: int = 16, seed: int = 0, first: int = 0) -> Batch:
    """Smooth random images with labels and noise; sample i is the same in any batch."""
    ids = torch.arange(first, first + count)
    noise = Noise(seed, ids)
    coarse = noise.normal("toy", channels, 4, 4)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").tanh()
    return Batch(images=images, labels=ids % 10, noise=noise, other=-images)


def toy_split(count: int = 48, *, channels: int = 1, size: int = 16) -> Split:
    """The same as uint8 shards in memory, cut in two."""
    images = ((toy_batch(count, channels=channels, size=size).images + 1) * 127.5).round().to(torch.uint8)
    array = images.permute(0, 2, 3, 1).contiguous().numpy()
    return Split(ArrayStore((array[: count // 3], array[count // 3 :])), np.arange(count, dtype=np.int64) % 10)


def second_domain(method: Method, split: Split, *, channels: int = 1) -> dict[str, Any]:
    """What ``batches`` takes besides a split for a method: nothing, another domain, or each image's negative."""
    if "pair" in method.needs:
        return {"other": split.seen_as(lambda images: 255 - images), "paired": True}
    return {"other": toy_split(30, channels=channels)} if "other" in method.needs else {}


@contextmanager
def gloo_rank(rank: int, size: int, folder: str | Path) -> Iterator[World]:
    """In a process of its own: one of ``size`` on this machine, of one thread, that meet in ``folder``."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    yield World.current(torch.device("cpu"))
    dist.destroy_process_group()


def split_images(folder: Path, name: str) -> NDArray[np.uint8]:
    """The images of a split of out/data: (n, h, w, c)."""
    split = open_dataset(folder).splits[name]
    return split.images(range(len(split))).permute(0, 2, 3, 1).numpy()


def origin(
    tmp_path: Path,
    mirror: Path | str | None = None,
    path: Path | str | None = None,
    labels: str = "auto",
    also: Sequence[str] = (),
) -> Origin:
    """Where a source finds its files; those at ``path`` and ``also`` are listed as the stage does it."""
    given = Origin(
        paths=(str(path or tmp_path), *also),
        folder=tmp_path,
        listing=tmp_path / "listing.csv",
        labels=labels,
        mirror=mirror and str(mirror),
        downloads=tmp_path / "downloads",
    )
    if path is not None:
        write_listing(tmp_path / "listing.csv", list_files(given.paths, tmp_path, tmp_path / "hashes.sqlite"))
    return given
