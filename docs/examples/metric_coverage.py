"""Density and coverage: Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models",
ICML 2020, arXiv:2002.09797, section 3.3.

With B(x) the ball around a real image's features that reaches its k-th nearest real neighbour,

    density   how many balls a sample lies in, on average, divided by k: are samples where real images are dense?
    coverage  the share of the balls that hold a sample: are all kinds of real images generated?
"""

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score

NEIGHBOURS = 5


def density_and_coverage(samples: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Compute both from features.

    Args:
        samples: (n, d).
        real: (m, d), m > neighbours.
        neighbours: k.

    Returns:
        Density, at least 0 and about 1 if both sets are alike; and coverage, in [0, 1].

    Raises:
        ValueError: there are too few real images.
    """
    if len(real) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more than {len(real)} real images")
    held, covered = 0, 0
    for part in real.split(1024):  # not all pairs in memory at once
        radii = torch.cdist(part, real).kthvalue(neighbours + 1).values  # the nearest to each is itself
        inside = torch.cdist(part, samples) < radii[:, None]
        held += int(inside.sum())
        covered += int(inside.any(1).sum())
    return held / (neighbours * len(samples)), covered / len(real)


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    density, coverage = density_and_coverage(samples.features, real.features)
    return {"density": Score(density), "coverage": Score(coverage)}


METRIC = Metric(
    quantities={
        "density": Quantity(title="Density", better="higher"),
        "coverage": Quantity(title="Coverage", better="higher"),
    },
    needs=frozenset({"features"}),
    compute=_compute,
    settings={"neighbours": NEIGHBOURS},
)
