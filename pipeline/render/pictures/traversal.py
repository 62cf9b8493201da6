"""One dimension of the latents at a time: what it changes, all others kept."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

ROWS, COLUMNS = 8, 9
REACH = 3.0  # standard deviations of a normal latent, to each side; a uniform one goes from end to end


def traversals(subject: Subject, dimensions: Tensor, columns: int) -> Tensor:
    """Return images of sample 0 along single dimensions, itself in the middle.

    Args:
        subject: with latents.
        dimensions: (rows,) int64, of the flattened latents.
        columns: odd.

    Returns:
        (rows, columns, c, h, w) in [-1, 1].
    """
    draw = subject.walked
    assert draw is not None and columns % 2
    rows = len(dimensions)
    numbers = {name: values.repeat_interleave(rows * columns, 0) for name, values in subject.numbers(1).items()}
    grid = numbers[draw.name].flatten(1).clone().unflatten(0, (rows, columns))
    for row, dimension in enumerate(dimensions.tolist()):
        start = grid[row, 0, dimension].clone()
        below, above = (start - REACH, start + REACH) if draw.kind == "normal" else (torch.zeros(()), torch.ones(()))
        step = torch.linspace(-1, 1, columns)
        grid[row, :, dimension] = start + step.abs() * torch.where(step < 0, below - start, above - start)
    numbers[draw.name] = grid.flatten(0, 1).unflatten(1, draw.shape)
    return subject.images_of(numbers, subject.labels(1).repeat(rows * columns)).unflatten(0, (rows, columns))


def _draw(subject: Subject) -> Image | None:
    shares = subject.ways.sensitivity
    if not len(shares):
        return None
    dimensions = shares.argsort(descending=True, stable=True)[:ROWS]
    names = [f"z{number}  {100 * shares[number]:.1f} %" for number in dimensions.tolist()]
    assert subject.walked is not None
    ends = (f"-{REACH:g} SD", f"+{REACH:g} SD") if subject.walked.kind == "normal" else ("least", "most")
    columns = [ends[0], *[""] * (COLUMNS // 2 - 1), "sample", *[""] * (COLUMNS // 2 - 1), ends[1]]
    return labelled(panel(traversals(subject, dimensions, COLUMNS)), rows=names, columns=columns)


PICTURE = Picture(
    title="Traversal of single dimensions",
    caption=(
        "One sample, in the middle of every row. A row changes one dimension of its latents alone: the dimensions "
        "to which images are most sensitive, with their share of all change. A row in which one thing changes, such "
        "as slant, is a dimension that stands for it."
    ),
    needs=frozenset({"latents"}),
    draw=_draw,
)
