"""What the critic says of training images, of test images and of samples, as distributions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.render.curves import LIGHT, plain_axes
from pipeline.render.picture import Picture, Subject, in_parts, wanted
from pipeline.watch.measures.critic_auc import probability_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 512
FEWEST_BINS, BINS = 8, 40  # of few images, few
COLOURS = {"training images": "#3b82c4", "test images": "#2a9d6f", "samples": "#d9822b"}


def outputs(subject: Subject) -> dict[str, Tensor]:
    """Return the finite scores (n,) of each kind of images."""
    method, nets = subject.trained.method, subject.trained.nets

    def scores(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            found = in_parts(lambda some, of: method.criticize(nets, some, of), subject.at_a_time, images, labels)
        return found[found.isfinite()]

    found = {}
    for name, split in (("training images", "train"), ("test images", "test")):
        batches = subject.real(split, IMAGES)
        found[name] = torch.cat([scores(wanted(batch), batch.labels) for batch in batches])
    return found | {"samples": scores(*subject.samples(IMAGES))}


def _draw(subject: Subject) -> "Figure | None":
    from matplotlib.figure import Figure

    found = outputs(subject)
    if not all(map(len, found.values())):
        return None
    low, high = (float(end) for end in torch.cat([*found.values()]).aminmax())
    bins = max(FEWEST_BINS, min(BINS, round(2 * min(map(len, found.values())) ** 0.5)))
    how: dict[str, Any] = {"bins": bins, "range": (low, high if high > low else low + 1.0), "density": True}
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, scores in found.items():
        ax.hist(scores.numpy(), histtype="stepfilled", alpha=0.25, color=COLOURS[name], **how)
        ax.hist(scores.numpy(), histtype="step", linewidth=1.4, color=COLOURS[name], label=name, **how)
    ranked = probability_above(found["training images"], found["samples"])
    ax.set_xlabel("critic's output: the higher, the more like real images", color=LIGHT.ink, fontsize=9)
    ax.set_yticks([])
    ax.legend(frameon=False, fontsize=8, labelcolor=LIGHT.ink)
    plain_axes(ax, f"a training image is put above a sample in {ranked:.0%} of pairs", LIGHT)
    return figure


PICTURE = Picture(
    title="The critic's outputs",
    caption=(
        "How the critic scores real images and samples. One heap: it cannot tell them apart. Samples far to the "
        "left: it has won. Test images apart from training images: it knows the latter by heart."
    ),
    needs=frozenset({"critic"}),
    draw=_draw,
)
