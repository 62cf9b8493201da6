"""Test images, what a method of pairs makes of them, and what they should become."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.core.batch import Batch
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject
from pipeline.render.pictures.reconstructions import error_map

COLUMNS = 10


def rows_of(subject: Subject, count: int) -> Tensor:
    """Return test images, their translations, their partners and the error, (4, count, c, h, w) in [-1, 1].

    Args:
        subject: of a method that needs pairs.
        count: how many, at most.

    Returns:
        The four, below each other.
    """
    parts = [_of_batch(subject, batch) for batch in subject.real("test", count)]
    return torch.cat(parts, dim=1)


def _of_batch(subject: Subject, batch: Batch) -> Tensor:
    with torch.no_grad():
        made = subject.trained.method.sample(subject.trained.nets, batch)
    assert batch.other is not None, "a picture that needs pairs"
    return torch.stack((batch.images, made, batch.other, error_map(made, batch.other)))


def _draw(subject: Subject) -> Image:
    return labelled(panel(rows_of(subject, COLUMNS)), rows=["input", "output", "truth", "error"])


PICTURE = Picture(
    title="Pairs",
    caption=(
        "Images that training has not seen, what the run makes of them, what they are in truth, and the absolute error "
        "of each pixel, from black (none) to white. An output may differ from the truth and still be a likely one: "
        "colours and insides are not in an input of edges."
    ),
    needs=frozenset({"pairs"}),
    draw=_draw,
)
