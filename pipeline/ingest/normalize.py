"""Any image to the one shape that training takes: square, of one size, gray or RGB, uint8.

In order: transparency is laid on white; the colour becomes gray (ITU-R 601-2 luma, PIL's 'L') or RGB;
the middle square is cut out; it is resized with PIL's antialiased bicubic filter, which Parmar et al.,
"On aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022, find true where others
alias. An image that has the size already keeps its pixels. Embedded colour profiles are not applied.
[-1, 1] is made later, a batch at a time, on the device.
"""

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import NewSplit, write_dataset
from pipeline.errors import UserError
from pipeline.ingest.source import RawDataset, RawSplit, Report, silent

_BLOCK_BYTES = 8 * 2**20  # of normalized images in memory
_MOST_THREADS = 8  # a decoded photograph may take some hundred MB in each


def to_square(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """(size, size, channels) uint8 of an image in any 8-bit PIL mode."""
    image = _opaque(image).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, channels)


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def hold_out(labels: NDArray[np.int64], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the samples to train with and of those held out, both ascending.

    Stratified: of each class's n samples round(fraction * n) are held out, at least 1 if n > 1 and
    never all. Deterministic: a function of labels and fraction.
    """
    rng = np.random.default_rng(0)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(max(round(fraction * len(members)), 1), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def with_test_split(raw: RawDataset, fraction: float) -> Mapping[str, RawSplit]:
    """The publisher's splits, or a test split held out where there is none."""
    if "test" in raw.splits:
        return raw.splits
    train, test = hold_out(raw.splits["train"].labels, fraction)
    if not len(test):
        raise UserError("data.path: one image in each class: none can be held out. Add images, or a test/ folder.")
    return {"train": raw.splits["train"].take(train), "test": raw.splits["train"].take(test)}


def normalize(
    raw: RawDataset,
    folder: Path,
    *,
    source: str,
    channels: int,
    size: int,
    test_fraction: float,
    report: Report = silent,
) -> dict[str, Any]:
    """Writes the dataset in the format of data/shards.py, complete or not at all, and returns what spec.json says."""
    spec = ImageSpec(channels=channels, size=size, classes=len(raw.classes))
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        splits = {
            name: NewSplit(labels=split.labels, blocks=_blocks(split, name, spec, pool, report))
            for name, split in with_test_split(raw, test_fraction).items()
        }
        return write_dataset(folder, source=source, spec=spec, classes=raw.classes, splits=splits)


def _blocks(
    split: RawSplit, name: str, spec: ImageSpec, pool: ThreadPoolExecutor, report: Report
) -> Iterator[NDArray[np.uint8]]:
    """The split's images in order, (any, h, w, c), a block in memory at a time."""
    count, shape = len(split.labels), (spec.size, spec.size, spec.channels)
    length = max(_MOST_THREADS, _BLOCK_BYTES // math.prod(shape))
    for start in range(0, count, length):
        block = np.empty((min(length, count - start), *shape), dtype=np.uint8)
        # PIL lets go of Python's lock while it decodes and resizes; few, long tasks keep the overhead small.
        list(pool.map(partial(_fill, block, split, start, spec), range(_MOST_THREADS)))
        report(f"normalizing {name}", start + len(block), count)
        yield block


def _fill(block: NDArray[np.uint8], split: RawSplit, start: int, spec: ImageSpec, first: int) -> None:
    """Every _MOST_THREADS-th image of the block, from ``first``; the block's own first is number ``start``."""
    for row in range(first, len(block), _MOST_THREADS):
        block[row] = to_square(split.decode(start + row), spec.channels, spec.size)
