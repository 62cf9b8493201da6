"""Shapes: 1,500 discs, squares and triangles on a light ground, 32x32, RGB, drawn by Pillow; needs no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipeline.data.dataset import save_array
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

CLASSES = ("disc", "square", "triangle")
COUNT = 1_500
SIZE = 32
SIDES = {"square": 4, "triangle": 3}


@dataclass(frozen=True)
class Shapes(Source):
    """Keeps the images as images.npy, uint8 (n, 32, 32, 3), and labels.npy, int64 (n,)."""

    def download(self, origin: Origin, raw: Path) -> None:
        labels = np.arange(COUNT, dtype=np.int64) % len(CLASSES)
        images = np.empty((COUNT, SIZE, SIZE, 3), dtype=np.uint8)
        for number, label in enumerate(labels):
            images[number] = np.asarray(draw(CLASSES[label], number))
        save_array(raw / "images.npy", images)
        save_array(raw / "labels.npy", labels)

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        try:
            images = np.load(raw / "images.npy", allow_pickle=False)
            labels = np.load(raw / "labels.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise unusable(raw, error) from error
        split = RawSplit(labels=labels, decode=lambda number: Image.fromarray(images[number]))
        yield RawDataset(classes=CLASSES, splits={"train": split})


def draw(name: str, seed: int) -> Image.Image:
    """Draw one shape; its place, radius, angle and colour are functions of the seed."""
    rng = np.random.default_rng(seed)
    radius = int(rng.integers(6, 11))
    x, y = (int(value) for value in rng.integers(radius + 1, SIZE - radius - 1, 2))
    colour = tuple(int(value) for value in rng.integers(0, 160, 3))
    image = Image.new("RGB", (SIZE, SIZE), (240, 240, 235))
    pen = ImageDraw.Draw(image)
    if name == "disc":
        pen.circle((x, y), radius, fill=colour)
    else:
        pen.regular_polygon((x, y, radius), SIDES[name], rotation=float(rng.uniform(0, 90)), fill=colour)
    return image


SOURCE = Shapes()
