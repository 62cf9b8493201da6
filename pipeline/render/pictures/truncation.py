"""Samples by the bound of their normal latents: the truncation trick of Brock, Donahue, Simonyan, arXiv:1809.11096,
section 3.1, which trades diversity for quality."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.core.batch import Batch
from pipeline.core.noise import Noise
from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject, in_parts

ROWS = 6
BOUNDS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)  # standard deviations; beyond the last lies one in 16,000


def sweep(subject: Subject, rows: int) -> Tensor:
    """Return samples (rows, bounds, c, h, w) in [-1, 1], a row of one sample's random numbers under each bound."""
    spec, trained = subject.trained.spec, subject.trained
    blank = torch.zeros(rows, spec.channels, spec.size, spec.size)

    def bounded(ids: Tensor, bound: float) -> Tensor:
        noise = Noise(subject.settings.seed, ids, truncation=bound).stream("pictures")
        like = Batch(images=blank[: len(ids)], labels=subject.labels(rows)[ids], noise=noise)
        return trained.method.sample(trained.nets, like)

    with torch.no_grad():
        columns = [
            in_parts(lambda ids, bound=bound: bounded(ids, bound), subject.at_a_time, torch.arange(rows))
            for bound in BOUNDS
        ]
    return torch.stack(columns, dim=1)


def _draw(subject: Subject) -> Image:
    return labelled(panel(sweep(subject, ROWS)), columns=[f"{bound:g}" for bound in BOUNDS])


PICTURE = Picture(
    title="Truncation",
    caption=(
        "Each row is one sample under narrower and wider bounds on its normal latents, in standard deviations: at 0 "
        "all samples of a class are one image, at 4 next to nothing is bounded. Samples that look better far to the "
        "left lose diversity for it."
    ),
    needs=frozenset({"latents", "normal"}),
    draw=_draw,
)
