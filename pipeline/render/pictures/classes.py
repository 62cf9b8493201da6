"""The same latents in every class: what a class-conditional method lets the class decide, and what the latents."""

import torch
from PIL.Image import Image

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

ROWS = 5


def _draw(subject: Subject) -> Image:
    classes = torch.arange(min(subject.settings.columns, subject.trained.spec.classes))
    numbers = {name: drawn.repeat_interleave(len(classes), 0) for name, drawn in subject.numbers(ROWS).items()}
    images = subject.images_of(numbers, classes.repeat(ROWS))
    return labelled(panel(images.unflatten(0, (ROWS, len(classes)))), columns=subject.class_names(classes))


PICTURE = Picture(
    title="The same latents in every class",
    caption="Each row has the same latents, each column one class: a row keeps what the class does not decide.",
    needs=frozenset({"latents", "labels"}),
    draw=_draw,
)
