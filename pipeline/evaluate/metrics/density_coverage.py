"""Density and coverage: Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models",
ICML 2020, arXiv:2002.09797, eq. 3 and 4.

With B_k(x) the ball around a real image x in X that reaches its k-th nearest real neighbour, k = 5, and samples Y,

    density    sum_y |{x: y in B_k(x)}| / (k |Y|): do samples lie where real images lie densely?
    coverage   |{x: some y in B_k(x)}| / |X|: how many real images have a sample near them?

Only real images have balls, so an outlier among the samples changes little. Of two sets of one distribution, density
is 1 in expectation, and coverage 1 - (|X| - 1) ... (|X| - k) / ((|X| + |Y| - 1) ... (|X| + |Y| - k)): 0.969 where both
are many. Density may exceed 1. Each image counts once, and the balls are closed: the authors' strict comparison
makes both 0 for the real images themselves where each is there six times.

Given the real images, density is a mean over samples, and its error a mean's; coverage's is that of shares.py.
"""

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, require
from pipeline.evaluate.shares import fixed_balls

NEIGHBOURS = 5


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(real.distinct, NEIGHBOURS + 1, real=True)
    require(samples.distinct, 2)
    found, column = samples.overlap(real), NEIGHBOURS - 1
    holding, held = found.holding_b[:, column], found.held_by_a[:, column]
    density = int(holding.sum()) / (NEIGHBOURS * samples.distinct)
    error = float(holding.double().std()) / (NEIGHBOURS * samples.distinct**0.5)
    coverage = int((held > 0).sum()) / real.distinct
    by_halves = fixed_balls(found.reached[:, :, column], samples.distinct, samples.seed)
    return {"density": Score(density, error=error), "coverage": Score(coverage, error=by_halves, error_by="halves")}


METRIC = Metric(
    quantities={
        "density": Quantity(title="Density", better="higher"),
        "coverage": Quantity(title="Coverage", better="higher"),
    },
    needs=frozenset({"features"}),
    compute=_compute,
    interval="own",
    settings={"neighbours": NEIGHBOURS},
)
