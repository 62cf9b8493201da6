"""FID at infinitely many samples: Gaussians whose distance is known, and an honest spread."""

from dataclasses import replace

import pytest
import torch
from samplers import measured
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.metric import TooFewError
from pipeline.evaluate.metrics import fid, fid_infinity

SCALE = torch.logspace(0, -1, 24).double()


def exact(scale: Tensor) -> FeatureSet:
    """Real images without end: the moments themselves."""
    stored = Statistics(mean=torch.zeros(len(scale)).double(), covariance=scale.square().diag()).factorized()
    return replace(measured(torch.zeros(100, len(scale))), stored=stored)


def draw(count: int, factor: float, seed: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    return measured(torch.randn(count, 24, generator=generator).double() * SCALE * factor)


@pytest.mark.parametrize("factor", [1.0, 1.4])
def test_the_bias_of_few_samples_is_gone_and_the_spread_is_what_it_varies_by(factor: float) -> None:
    real, expected = exact(SCALE), float((SCALE * (factor - 1)).square().sum())
    sets = [draw(150, factor, seed) for seed in range(40)]
    plain = torch.tensor([fid.METRIC.compute(samples, real)["fid"].value for samples in sets])
    scores = [fid_infinity.METRIC.compute(samples, real)["fid_infinity"] for samples in sets]
    found = torch.tensor([score.value for score in scores])
    spreads = torch.tensor([score.spread for score in scores])
    bias, error = plain.mean().item() - expected, found.std().item() / len(sets) ** 0.5
    assert bias > 8 * error
    assert found.mean().item() == pytest.approx(expected, abs=4 * error + 0.03 * bias)
    assert 0.7 < spreads.mean() / found.std() < 1.7


def test_of_a_shift_it_is_the_shifts_square_whatever_the_samples() -> None:
    samples = measured(draw(100, 1.0, 0).features)
    real = replace(samples, stored=Statistics.of(samples.features - 3))
    found = fid_infinity.METRIC.compute(samples, real)["fid_infinity"]
    assert found.value == pytest.approx(9 * 24, rel=0.01) and found.spread is not None
    assert 0 < found.spread < 0.05 * 9 * 24


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(TooFewError, match="samples: at least 20 are needed, 19 are there"):
        fid_infinity.METRIC.compute(draw(19, 1.0, 0), exact(SCALE))
    with pytest.raises(TooFewError, match="real images: at least 20 are needed, 19 are there"):
        fid_infinity.METRIC.compute(draw(50, 1.0, 0), draw(19, 1.0, 1))
    assert fid_infinity.METRIC.compute(draw(20, 1.0, 0), exact(SCALE)).keys() == {"fid_infinity"}
