"""Samples by the temperature of a method that has one: of a flow's latents (Kingma, Dhariwal, arXiv:1807.03039,
section 6), or of the choice of codes."""

from dataclasses import replace

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = 6


def sweep(subject: Subject, rows: int) -> Tensor:
    """Return samples (rows, temperatures, c, h, w) in [-1, 1], a row of one sample's random numbers at each of them."""
    trained, columns = subject.trained, []
    like = list(subject.real("train", rows))
    with torch.no_grad():
        for temperature in TEMPERATURES:
            method = replace(trained.method, temperature=temperature)  # type: ignore[call-arg]
            columns.append(torch.cat([method.sample(trained.nets, batch) for batch in like]))
    return torch.stack(columns, dim=1)


def _draw(subject: Subject) -> Image:
    return labelled(panel(sweep(subject, ROWS)), columns=[f"{temperature:g}" for temperature in TEMPERATURES])


PICTURE = Picture(
    title="Temperature",
    caption=(
        "Each row is one sample at a rising temperature: at 0 the latents are all at their most likely place, at 1 "
        "they are those of the model itself."
    ),
    needs=frozenset({"temperature"}),
    draw=_draw,
)
