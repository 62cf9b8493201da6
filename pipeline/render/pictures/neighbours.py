"""The training images nearest to samples, beside those nearest to images that training has not seen.

A model that repeats its training images has samples much nearer to one than other images of the same kind are.
"""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.core.batch import to_uint8, to_unit_range
from pipeline.data.dataset import Split
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, wanted

LOOKED_AT = 64  # samples, and test images
ROWS, NEAREST = 6, 4
CHUNK_BYTES = 2**26  # of training images in memory, as float64
LEVELS = 127.5  # of a byte, in one unit of [-1, 1]


def nearest_images(images: Tensor, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Find the nearest images of a split, in pixels; a chunk of the split at a time is held.

    Args:
        images: (n, c, h, w) in [-1, 1], finite.
        split: of images of the same shape.
        count: how many of them for each image, at most.

    Returns:
        The root mean square difference of a pixel (n, count), ascending, and the numbers in the split (n, count).
    """
    flat, best = images.flatten(1).double(), torch.zeros(len(images), 0, dtype=torch.float64)
    rows = torch.zeros(len(images), 0, dtype=torch.int64)
    for ids in torch.arange(len(split)).split(max(1, CHUNK_BYTES // (8 * flat.shape[1]))):
        some = to_unit_range(split.images(ids.numpy()), torch.device("cpu")).flatten(1).double()
        best = torch.cat((best, torch.cdist(flat, some)), dim=1)
        rows = torch.cat((rows, ids.expand(len(images), -1)), dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False)
        rows = rows.gather(1, order)
    return best / flat.shape[1] ** 0.5, rows


def _most_suspect(images: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Return (ROWS, 1 + NEAREST, c, h, w): the images nearest to any of a split, each before its nearest ones; and how
    far the first of these is, (ROWS,)."""
    distances, rows = nearest_images(images, split, NEAREST)
    chosen = distances[:, 0].argsort(stable=True)[:ROWS]
    found = to_unit_range(split.images(rows[chosen].flatten().numpy()), torch.device("cpu"))
    return torch.cat((images[chosen, None], found.unflatten(0, (len(chosen), -1))), dim=1), distances[chosen, 0]


def _draw(subject: Subject) -> Image:
    train = subject.target.splits["train"]
    samples = to_unit_range(to_uint8(subject.samples(LOOKED_AT)[0]), torch.device("cpu"))
    unseen = torch.cat([wanted(batch) for batch in subject.real("test", LOOKED_AT)])
    (left, near), (right, far) = (_most_suspect(images, train) for images in (samples, unseen))
    rows = min(len(left), len(right))
    gap = torch.ones(rows, 1, *left.shape[2:])
    sheet = panel(torch.cat((left[:rows], gap, right[:rows]), dim=1))
    nearest = ["nearest", *[""] * (left.shape[1] - 2)]
    both = torch.stack((near[:rows], far[:rows]), dim=1) * LEVELS
    numbers = [f"{ours:.0f} | {theirs:.0f}" for ours, theirs in both.tolist()]
    return labelled(sheet, columns=["sample", *nearest, "", "test image", *nearest], rows=numbers)


PICTURE = Picture(
    title="Nearest training images",
    caption=(
        f"Left: of {LOOKED_AT} samples those that come nearest to a training image, each with its {NEAREST} nearest. "
        "Right: the same for test images, which nobody copied. The numbers are root mean square differences of pixels "
        "to the nearest, in levels of 0 to 255, of the sample and of the test image. Samples much nearer than test "
        "images are learnt by heart; in pixels, a copy that is shifted or mirrored goes unseen."
    ),
    draw=_draw,
)
