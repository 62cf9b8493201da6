"""A-B-A: images of one domain, translated to the other and back, for both domains."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, in_parts
from pipeline.render.pictures.reconstructions import error_map

COLUMNS = 8


def cycle(subject: Subject, images: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    """Translate images (n, c, h, w) in [-1, 1] in one direction; return that, and that translated back."""
    method, nets = subject.trained.method, subject.trained.nets
    labels = torch.zeros(len(images), dtype=torch.int64)
    with torch.no_grad():
        there = in_parts(lambda some: method.translate(nets, some, direction), subject.at_a_time, images)
        back = in_parts(lambda some, of: method.decode(nets, {direction: some}, of), subject.at_a_time, there, labels)
    return there, back


def _draw(subject: Subject) -> Image:
    rows, names = [], []
    for direction, data in zip(subject.trained.method.directions, (subject.data, subject.other), strict=True):
        images, _ = subject.shown(COLUMNS, data)
        there, back = cycle(subject, images, direction)
        rows += [images, there, back, error_map(images, back)]
        names += ["test image", direction.replace("_", " "), "and back", "error"]
    return labelled(panel(torch.stack(rows)), rows=names)


PICTURE = Picture(
    title="There and back",
    caption=(
        "Images of each domain that training has not seen, their translations, these translated back, and the "
        "absolute error of the way there and back, from black (none) to white."
    ),
    needs=frozenset({"directions"}),
    draw=_draw,
)
