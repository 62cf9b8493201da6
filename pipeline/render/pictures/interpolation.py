"""From one sample to another: along a great circle where latents are normal (White, arXiv:1609.04468), for a straight
line would pass near the origin, where no sample lies; straight where they are uniform."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.families.latents import slerp, straight
from pipeline.render.grid import panel
from pipeline.render.picture import Picture, Subject

ROWS, COLUMNS = 6, 9


def walks(subject: Subject, rows: int, columns: int) -> Tensor:
    """Return images (rows, columns, c, h, w) of walks from sample i to sample rows + i, in the class of the first.

    Of what sampling draws besides latents (noise in the layers, codes), a walk keeps the first sample's.
    """
    draw = subject.walked
    assert draw is not None
    drawn = subject.numbers(2 * rows)
    ends = drawn[draw.name].flatten(1)
    walk = slerp if draw.kind == "normal" else straight
    path = walk(ends[:rows], ends[rows:], torch.linspace(0, 1, columns)).flatten(0, 1)
    numbers = {name: values[:rows].repeat_interleave(columns, 0) for name, values in drawn.items()}
    numbers[draw.name] = path.unflatten(1, draw.shape)
    images = subject.images_of(numbers, subject.labels(rows).repeat_interleave(columns))
    return images.unflatten(0, (rows, columns))


def _draw(subject: Subject) -> Image:
    return panel(walks(subject, ROWS, COLUMNS))


PICTURE = Picture(
    title="Interpolation",
    caption=(
        "Each row walks from the latents of one sample to those of another. Where every step looks like an image of "
        "the data, the model has not just learnt some images by heart."
    ),
    needs=frozenset({"latents"}),
    draw=_draw,
)
