"""The codes that a method reads back from images, each varied alone: Chen et al., arXiv:1606.03657, figure 2."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.inference.onnx import Draw
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

SAMPLES = 3  # rows of a code: odd, so that its name stands beside the middle
FEWEST, MOST = 9, 16  # columns
REACH = 2.0  # a code of U[-1, 1] goes from -2 to 2, beyond what was trained, as in the paper


def varied(subject: Subject, code: Draw, place: int, columns: int) -> Tensor:
    """Vary one number of a code alone.

    Args:
        subject: with codes.
        code: which.
        place: which of its numbers.
        columns: values; of integers, beyond the last they begin again.

    Returns:
        (SAMPLES, columns, c, h, w) in [-1, 1].
    """
    drawn = subject.numbers(SAMPLES)
    numbers = {name: values.repeat_interleave(columns, 0).clone() for name, values in drawn.items()}
    if code.high is None:
        values = (torch.linspace(-REACH, REACH, columns) + 1) / 2  # uniform numbers lie in [0, 1)
    else:
        values = torch.arange(columns) % code.high
    numbers[code.name].view(SAMPLES * columns, -1)[:, place] = values.repeat(SAMPLES)
    images = subject.images_of(numbers, subject.labels(SAMPLES).repeat_interleave(columns))
    return images.unflatten(0, (SAMPLES, columns))


def _draw(subject: Subject) -> Image:
    columns = min(MOST, max([FEWEST, *(code.high or 0 for code in subject.codes)]))
    rows, names = [], []
    for code in subject.codes:
        size = max(1, torch.Size(code.shape).numel())
        for place in range(size):
            rows.append(varied(subject, code, place, columns))
            beside = [""] * (SAMPLES // 2)
            names += [*beside, f"{code.name} {place + 1}" if size > 1 else code.name, *beside]
    return labelled(panel(torch.cat(rows)), rows=names)


PICTURE = Picture(
    title="Traversal of codes",
    caption=(
        "Three samples to a code, of which one code alone varies from left to right: a category through its values, "
        "a continuous code from -2 to 2, where training had -1 to 1. A code has a meaning where all three rows "
        "change alike."
    ),
    needs=frozenset({"codes"}),
    draw=_draw,
)
