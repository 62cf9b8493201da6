"""Samples of a run's trainings beside each other: what another seed makes of the same settings."""

from dataclasses import replace

import torch
from PIL.Image import Image

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

COLUMNS = 12


def _draw(subject: Subject) -> Image:
    rows = [replace(subject, trained=trained).samples(COLUMNS)[0] for trained in subject.seeds.values()]
    return labelled(panel(torch.stack(rows)), rows=[f"seed {seed}" for seed in subject.seeds])


PICTURE = Picture(
    title="Of each seed",
    caption="Samples of the run's trainings, one a row; those of a column are of the same random numbers.",
    needs=frozenset({"seeds"}),
    draw=_draw,
)
