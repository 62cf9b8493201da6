"""How much images change along each dimension of the latents (pipeline/inference/directions.py)."""

from typing import TYPE_CHECKING

from pipeline.render.curves import LIGHT, LINE, plain_axes
from pipeline.render.picture import Picture, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 0.9  # of the change


def _draw(subject: Subject) -> "Figure | None":
    from matplotlib.figure import Figure

    shares = subject.ways.sensitivity.sort(descending=True).values
    if not len(shares):
        return None
    needed = int((shares.cumsum(0) < MOST).sum()) + 1
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.bar(range(1, len(shares) + 1), (100 * shares).tolist(), width=1.0 if len(shares) > 40 else 0.8, color=LINE)
    ax.axhline(100 / len(shares), color=LIGHT.ink, linewidth=0.8, linestyle="--")
    ax.set_xlabel(f"dimensions of {subject.ways.of}, the most sensitive first", color=LIGHT.ink, fontsize=9)
    ax.set_ylabel("% of the squared change", color=LIGHT.ink, fontsize=9)
    plain_axes(ax, f"{needed} of {len(shares)} dimensions make {MOST:.0%} of the change", LIGHT)
    return figure


PICTURE = Picture(
    title="Sensitivity to each latent dimension",
    caption=(
        "The share of the image's mean squared change that a small step along each dimension makes. Dashed: all "
        "alike. Bars near zero are dimensions that the model ignores."
    ),
    needs=frozenset({"latents"}),
    draw=_draw,
)
