"""How often an interval of 95% holds the mean of a metric over other samples of the same distribution.

    OMP_NUM_THREADS=1 python bench/intervals.py [--draws 300]

Real images are m draws of a standard normal distribution, which stay; samples are n of another one, drawn anew each
time. Beside the share that is held: the root mean square of the errors over the deviation that they should be.
"""

import argparse

import torch

from pipeline.evaluate import metrics
from pipeline.evaluate.feature_set import FeatureSet

NAMES = ("precision_recall", "density_coverage", "memorization")
#        n, m, dimensions, shift, scale
CASES = (
    (400, 400, 8, 0.3, 1.0),
    (400, 400, 2, 0.0, 1.0),
    (400, 400, 8, 0.0, 0.5),
    (300, 1000, 16, 0.2, 0.8),
    (300, 2000, 4, 0.0, 1.0),
    (1000, 300, 8, 0.2, 0.8),
    (400, 400, 8, 1.0, 0.3),
    (200, 200, 8, 0.3, 1.0),
)


def measured(features: torch.Tensor) -> FeatureSet:
    none = torch.empty(len(features), 0)
    return FeatureSet(features=features, logits=none, labels=none[:, :0], seed=0, distinct=len(features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(5)
    print(
        "| samples, real, dimensions, shift, scale | metric | mean | error / deviation | held |\n|---|---|---|---|---|"
    )
    for n, m, dimensions, shift, scale in CASES:
        real = measured(torch.randn(m, dimensions, generator=draw))
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.draws):
            samples = measured(shift + scale * torch.randn(n, dimensions, generator=draw))
            for name in NAMES:
                for quantity, score in metrics.load(name).compute(samples, real).items():
                    found.setdefault(quantity, []).append((score.value, score.error))
        for quantity, pairs in found.items():
            values, errors = torch.tensor(pairs, dtype=torch.float64).T
            held = ((values - values.mean()).abs() <= 1.96 * errors).double().mean()
            ratio = errors.square().mean().sqrt() / values.std()
            case = f"{n}, {m}, {dimensions}, {shift}, {scale}"
            print(f"| {case} | {quantity} | {values.mean():.3f} | {ratio:.2f} | {held:.3f} |", flush=True)


if __name__ == "__main__":
    main()
