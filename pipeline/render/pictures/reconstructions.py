"""Test images, what a method makes of them again, and where the two differ."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.inference.encode import plain_batch
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, in_parts

COLUMNS = 10


def reconstructed(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    """Encode images (n, c, h, w) in [-1, 1] with labels (n,), and decode them to the same shape."""
    method, nets = subject.trained.method, subject.trained.nets
    name = method.decodes[0]

    def again(some: Tensor, of: Tensor) -> Tensor:
        return method.decode(nets, {name: method.encode(nets, plain_batch(some, of))[name]}, of)

    with torch.no_grad():
        return in_parts(again, subject.at_a_time, images, labels)


def error_map(images: Tensor, others: Tensor) -> Tensor:
    """Return |images - others| as images in [-1, 1]: -1 (black) where they are equal, 1 where they are black and white
    to each other."""
    return (images - others).abs() - 1


def _draw(subject: Subject) -> Image:
    images, labels = subject.shown(COLUMNS)
    again = reconstructed(subject, images, labels)
    sheet = panel(torch.stack((images, again, error_map(images, again))))
    return labelled(sheet, rows=["test image", "reconstruction", "error"])


PICTURE = Picture(
    title="Reconstructions",
    caption=(
        "Images that training has not seen, what they become when encoded and decoded, and the absolute error of "
        "each pixel, from black (none) to white (black for white), on one scale for all runs."
    ),
    needs=frozenset({"decodes"}),
    draw=_draw,
)
