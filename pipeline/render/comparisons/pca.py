"""Features in the plane in which those of real images vary most: principal component analysis (Pearson 1901)."""

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.render.comparison import Comparison
from pipeline.render.scatter import draw_clouds, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 1000  # points of a kind
FEWEST = 3


def principal_axes(real: Statistics) -> tuple[Tensor, float]:
    """Return the two directions of greatest variance.

    Args:
        real: of features of d dimensions and rank two or more.

    Returns:
        Unit vectors (d, 2), the largest variance first, each with its largest entry positive, as none has a sign of its
        own; and their share of all variance.
    """
    factor = real.factorized().factor
    assert factor is not None
    axes = factor[:, :2] / factor[:, :2].norm(dim=0)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return axes * largest.sign(), float(factor[:, :2].square().sum() / factor.square().sum())


def _draw(samples: FeatureSet, real: FeatureSet) -> "Figure | None":
    if min(samples.distinct, real.distinct) < FEWEST:
        return None
    statistics = real.statistics.factorized()
    assert statistics.factor is not None
    if statistics.factor.shape[1] < 2:
        return None
    axes, share = principal_axes(statistics)
    there, here = ((some(kind, MOST) - statistics.mean) @ axes for kind in (real, samples))
    return draw_clouds(there, here, f"the plane holds {share:.0%} of the real images' variance")


COMPARISON = Comparison(
    title="Real and generated features (PCA)",
    caption=(
        "Features of real images and of samples, projected on the plane in which the real ones vary most: the same "
        "plane for all runs. Real points without samples near them are what the model leaves out; samples outside "
        "of the cloud are like no real image."
    ),
    draw=_draw,
)
