"""All that a training logs against images seen."""

from typing import TYPE_CHECKING

from pipeline.render.curves import draw
from pipeline.render.picture import Picture, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _draw(subject: Subject) -> "Figure":
    return draw(subject.history)


PICTURE = Picture(
    title="Losses, gradient norms and measures",
    caption="Means over each log window against images seen; a range of more than 100 has a logarithmic axis.",
    needs=frozenset({"history"}),
    draw=_draw,
)
