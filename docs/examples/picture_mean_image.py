"""The mean image and the spread of each pixel, of real images and of samples."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, wanted

IMAGES = 256


def mean_and_spread(images: Tensor) -> Tensor:
    """Return the mean of images (n, c, h, w) and their standard deviation, as images (2, c, h, w) in [-1, 1].

    Of the deviation, 0 is black and 1, that of pixels which are black or white at random, is white.
    """
    return torch.stack((images.mean(0), 2 * images.std(0, correction=0) - 1))


def _draw(subject: Subject) -> Image:
    real = torch.cat([wanted(batch) for batch in subject.real("train", IMAGES)])
    samples, _ = subject.samples(IMAGES)
    rows = torch.stack([mean_and_spread(images) for images in (real, samples)])
    return labelled(panel(rows), columns=["mean", "spread"], rows=["real images", "samples"])


PICTURE = Picture(
    title="Mean image",
    caption=f"The mean of {IMAGES} images, and how much each pixel varies. Both rows should look alike.",
    draw=_draw,
)
