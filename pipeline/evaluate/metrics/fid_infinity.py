"""FID without the bias of the number of samples, after Chong, Forsyth, "Effectively unbiased FID and Inception Score",
CVPR 2020, arXiv:1911.07023.

FID of n samples exceeds that of infinitely many by about c / n, where c depends on the model, so that even the order of
models can be wrong. The paper fits a line in 1 / n to FIDs of n / 10 to n samples and takes its value at 0. But far
from n the bias is no line: of 500 samples in 64 dimensions, where n gives 0.146 too much, the line gives 0.031 too
little. Here each tenth is left out in turn (Quenouille 1949, Tukey 1958), so that all counts are near n: 0.001. With
FID_(j) without part j of g = 10,

    p_j = g FID - (g - 1) FID_(j),   FID_infinity = mean_j p_j,   spread = std_j p_j / sqrt(g)

The spread is the standard error, of the samples alone. What is left are terms in 1 / n^2: few where n is several times
the dimensions, and too much is then taken off where n is less. The real images' own number stays in the result, as
in the paper, and is the same for all runs. It may be negative where the sets are alike.
"""

import torch

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.metric import PARTS, Metric, Quantity, Score, require
from pipeline.evaluate.metrics.fid import FEWEST_REAL, frechet_distance

FEWEST = 2 * PARTS


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(real), FEWEST_REAL, real=True)
    require(samples.distinct, FEWEST)
    against = real.statistics.factorized()
    # Copies in several parts would hide what leaving one out changes.
    parts = samples.distinct_features.tensor_split(PARTS)
    whole = frechet_distance(Statistics.of(samples.distinct_features), against)
    without = [
        frechet_distance(Statistics.of(torch.cat(parts[:j] + parts[j + 1 :])), against) for j in range(len(parts))
    ]
    single = PARTS * whole - (PARTS - 1) * torch.tensor(without, dtype=torch.float64)
    error = float(single.std() / PARTS**0.5)
    return {"fid_infinity": Score(float(single.mean()), error, error, "jackknife")}


METRIC = Metric(
    quantities={"fid_infinity": Quantity(title="FID∞", better="lower")},
    needs=frozenset({"features", "statistics"}),
    compute=_compute,
    interval="own",
    settings={"parts": PARTS, "extrapolation": "jackknife"},
)
