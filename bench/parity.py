"""Our metrics beside other people's, of the same features: the table of docs/metrics.md.

    python bench/parity.py [--python A_PYTHON_THAT_HAS_THEM]

Without it the packages are installed into a virtual environment that is removed in the end.
"""

import argparse

import numpy as np
import torch
from peers import ask, peers

from pipeline.evaluate import metrics
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metrics.kid import squared_mmd

KEYS = ("fid", "kid", "is", "precision", "recall", "density", "coverage")


def features(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Like Inception's: not negative, with deviations that fall by a hundred. float64 for their sakes."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dimensions, dimensions, generator=generator) * torch.logspace(0, -2, dimensions)
    generator.manual_seed(seed)
    x = torch.randn(count, dimensions, generator=generator) @ mixing
    if seed == 2:
        x += 0.05 * torch.randn(dimensions, generator=generator)
    return x.relu().double().numpy()


def ours(real: np.ndarray, samples: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    def measured(x: np.ndarray) -> FeatureSet:
        labels = torch.zeros(len(x), dtype=torch.int64)
        pooled = torch.from_numpy(x).float()
        return FeatureSet(features=pooled, logits=torch.from_numpy(logits), labels=labels, seed=0, distinct=len(x))

    sets = measured(samples), measured(real)
    scores = [
        metrics.load(n).compute(*sets) for n in ("fid", "inception_score", "precision_recall", "density_coverage")
    ]
    found = {key: score.value for each in scores for key, score in each.items()}
    return found | {"kid": squared_mmd(*(x.features[: min(len(real), len(samples))] for x in sets))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python")
    cases = {
        "1,500 and 1,200 of 256 dimensions": (features(1500, 256, 1), features(1200, 256, 2)),
        "300 and 300 of 512 dimensions": (features(300, 512, 1), features(300, 512, 2)),
        "300 of 64, each four times, against themselves": (np.repeat(features(300, 64, 1), 4, 0),) * 2,
    }
    with peers(parser.parse_args().python) as python:
        for name, (real, samples) in cases.items():
            logits = 3 * torch.randn(len(samples), 40, generator=torch.Generator().manual_seed(3)).numpy()
            mine = ours(real, samples, logits)
            head = "| metric | ours | torch-fidelity | pytorch-fid | clean-fid | prdc |"
            print(f"\n{name}\n\n{head}\n|---|---|---|---|---|---|")
            theirs = [
                ask(python, n, real, samples, logits) for n in ("torch_fidelity", "pytorch_fid", "clean_fid", "prdc")
            ]
            for key in KEYS:
                cells = [
                    f"{t[key]:.9g} ({(t[key] - mine[key]) / abs(mine[key] or 1):+.0e})" if key in t else ""
                    for t in theirs
                ]
                print(f"| {key} | {mine[key]:.9g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
