"""Normalization of images to what training takes: square, of one size, gray or RGB, uint8.

In this order: transparency is blended with white; colours become gray (ITU-R 601-2 luma, PIL's 'L') or RGB; the central
square is cropped and resized with PIL's antialiased bicubic filter, which Parmar et al., "On aliased resizing and
surprising subtleties in GAN evaluation", CVPR 2022, recommend. An image that has the size already keeps its pixels.
Embedded colour profiles are ignored. Pixels are scaled to [-1, 1] later, one batch at a time, on the device.
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
    """Convert an image in any 8-bit PIL mode to uint8 (size, size, channels)."""
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
    """Choose the samples of a test split; deterministic and stratified.

    Args:
        labels: int64 (n,).
        fraction: of each class's k samples round(fraction * k) are held out, at least 1 if k > 1 and never all.

    Returns:
        The numbers of the samples to train on and of those held out, both ascending.
    """
    rng = np.random.default_rng(0)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(max(round(fraction * len(members)), 1), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def with_test_split(raw: RawDataset, fraction: float) -> Mapping[str, RawSplit]:
    """Return the publisher's splits; hold out a test split if there is none.

    Args:
        raw: the dataset as published.
        fraction: how much of each class to hold out.

    Returns:
        'train' and 'test'.

    Raises:
        UserError: no class has an image that can be held out.
    """
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
    """Normalize all images and write them in the format of data/dataset.py.

    Args:
        raw: the dataset as published.
        folder: is replaced when all is written.
        source: the source's name, for spec.json.
        channels: 1 for gray, 3 for RGB.
        size: height and width in pixels.
        test_fraction: how much of each class to hold out if there is no test split.
        report: called with the progress.

    Returns:
        The content of spec.json.
    """
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
    """Yield the split's images in order, in blocks of uint8 (any, h, w, c)."""
    count, shape = len(split.labels), (spec.size, spec.size, spec.channels)
    length = max(_MOST_THREADS, _BLOCK_BYTES // math.prod(shape))
    for start in range(0, count, length):
        block = np.empty((min(length, count - start), *shape), dtype=np.uint8)
        # PIL releases the GIL while it decodes and resizes; few, long tasks keep the overhead small.
        list(pool.map(partial(_fill, block, split, start, spec), range(_MOST_THREADS)))
        report(f"normalizing {name}", start + len(block), count)
        yield block


def _fill(block: NDArray[np.uint8], split: RawSplit, start: int, spec: ImageSpec, first: int) -> None:
    """Fill every _MOST_THREADS-th row of the block from row ``first``; row 0 is image ``start``."""
    for row in range(first, len(block), _MOST_THREADS):
        block[row] = to_square(split.decode(start + row), spec.channels, spec.size)
