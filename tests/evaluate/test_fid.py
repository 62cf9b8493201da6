"""FID: the Frechet distance between Gaussians has closed forms, and the moments are numpy's."""

import numpy as np
import pytest
import torch
from samplers import random_features
from torch import Tensor

from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance


def gaussian(mean: list[float], covariance: Tensor) -> Statistics:
    return Statistics(mean=torch.tensor(mean).double(), covariance=covariance.double())


def test_frechet_of_diagonal_gaussians_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 0.25, 0.0])
    expected = (1 + 4 + 0) + ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    found = frechet_distance(gaussian([0, 0, 0], a.diag()), gaussian([1, -2, 0], b.diag()))
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_of_commuting_but_rotated_gaussians_is_the_closed_form() -> None:
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())
    a, b = torch.arange(1.0, 6.0).double(), torch.tensor([4.0, 1.0, 9.0, 0.5, 2.0]).double()
    zero = [0.0] * 5
    found = frechet_distance(gaussian(zero, turn @ a.diag() @ turn.T), gaussian(zero, turn @ b.diag() @ turn.T))
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


@pytest.mark.parametrize("count", [10, 300])
def test_frechet_of_identical_sets_is_zero_also_with_fewer_samples_than_dimensions(count: int) -> None:
    statistics = Statistics.of(random_features(count, 64, 1))
    assert abs(frechet_distance(statistics, statistics)) < 1e-10 * float(statistics.covariance.trace())


def test_frechet_of_a_shift_is_its_squared_length_for_a_singular_covariance() -> None:
    x = random_features(10, 64, 2).double()
    shift = torch.full((64,), 0.5).double()
    assert frechet_distance(Statistics.of(x), Statistics.of(x + shift)) == pytest.approx(16.0, rel=1e-9)


def test_frechet_of_a_scaling_scales_the_deviations() -> None:
    x = random_features(200, 16, 3).double()
    x = x - x.mean(0)
    trace = float(Statistics.of(x).covariance.trace())
    assert frechet_distance(Statistics.of(x), Statistics.of(3 * x)) == pytest.approx(4 * trace, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 64), (40, 60, 128)])
def test_frechet_agrees_with_torch_fidelity(n: int, m: int, d: int) -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = random_features(n, d, 4), random_features(m, d, 5)
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(z.double()) for z in (x, y)), verbose=False
    )
    ours = frechet_distance(Statistics.of(x), Statistics.of(y))
    assert ours == pytest.approx(theirs[metric_fid.KEY_METRIC_FID], rel=1e-5)
    assert ours == pytest.approx(frechet_distance(Statistics.of(y), Statistics.of(x)), rel=1e-9)


def test_statistics_of_more_samples_than_a_chunk_are_numpys() -> None:
    x = random_features(9001, 8, 6)
    found = Statistics.of(x)
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_refuse_what_is_not_finite(bad: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        Statistics.of(x)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(gaussian([0, bad, 0], torch.eye(3)), gaussian([0, 0, 0], torch.eye(3)))


def test_statistics_refuse_one_sample_and_other_dimensions() -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        Statistics.of(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="differ in dimension"):
        frechet_distance(gaussian([0, 0], torch.eye(2)), gaussian([0, 0, 0], torch.eye(3)))
