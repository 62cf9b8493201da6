"""From one real image to another, through what a method encodes them to."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.families.latents import slerp
from pipeline.inference.encode import plain_batch
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, in_parts

ROWS, COLUMNS = 5, 9


def walks_between(subject: Subject, images: Tensor, labels: Tensor, columns: int) -> Tensor | None:
    """Return walks from image i to image n + i, in the class of the first.

    Args:
        subject: whose method decodes what it encodes.
        images: (2 n, c, h, w) in [-1, 1].
        labels: (2 n,).
        columns: steps of a walk, its ends included.

    Returns:
        (n, columns, c, h, w) in [-1, 1]; None where images are encoded to discrete codes, between which is nothing.
    """
    method, nets, rows = subject.trained.method, subject.trained.nets, len(images) // 2
    name, labels = method.decodes[0], labels[:rows].repeat(2)
    with torch.no_grad():
        latents = in_parts(
            lambda some, of: method.encode(nets, plain_batch(some, of))[name], subject.at_a_time, images, labels
        )
        if not latents.is_floating_point():
            return None
        ends = latents.flatten(1)
        path = slerp(ends[:rows], ends[rows:], torch.linspace(0, 1, columns)).flatten(0, 1)
        decoded = in_parts(
            lambda some, of: method.decode(nets, {name: some}, of),
            subject.at_a_time,
            path.unflatten(1, latents.shape[1:]),
            labels[:rows].repeat_interleave(columns),
        )
    return decoded.unflatten(0, (rows, columns))


def _draw(subject: Subject) -> Image | None:
    images, labels = subject.shown(2 * ROWS)
    walks = walks_between(subject, images, labels, COLUMNS)
    if walks is None:
        return None
    sheet = panel(torch.cat((images[:ROWS, None], walks, images[ROWS:, None]), dim=1))
    return labelled(sheet, columns=["real", *[""] * COLUMNS, "real"])


PICTURE = Picture(
    title="Between real images",
    caption=(
        "Each row walks between two test images, which stand at its ends, through what they are encoded to. Beside "
        "each end is its reconstruction."
    ),
    needs=frozenset({"decodes"}),
    draw=_draw,
)
