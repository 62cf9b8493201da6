"""Digits: 1,797 handwritten digits, 8x8, 17 shades of gray, by 43 people (Alpaydin and Kaynak, UCI, 1998).

They come with scikit-learn, so no network is needed. There is no test split. The shades are real scans: 32x32 bitmaps,
in which each shade counts the dark pixels of a 4x4 block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.dataset import save_array
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Digits(Source):
    """Keeps the digits as images.npy, uint8 (n, 8, 8) in 0..16 as published, and labels.npy, int64 (n,)."""

    gray: bool = True

    def download(self, origin: Origin, raw: Path) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        save_array(raw / "images.npy", digits.images.astype(np.uint8))
        save_array(raw / "labels.npy", digits.target.astype(np.int64))

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...]:
        return CLASSES

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        try:
            shades = np.load(raw / "images.npy", allow_pickle=False)
            labels = np.load(raw / "labels.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise unusable(raw, error) from error
        images = np.rint(shades * (255 / 16)).astype(np.uint8)
        split = RawSplit(labels=labels, decode=lambda number: Image.fromarray(images[number]))
        yield RawDataset(classes=CLASSES, splits={"train": split})


SOURCE = Digits()
