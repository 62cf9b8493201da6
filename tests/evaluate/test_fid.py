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


def slow_but_sure(x: Statistics, y: Statistics) -> float:
    """By singular values of the product of two factors."""
    (a, b) = (s.factorized().factor for s in (x, y))
    assert a is not None and b is not None
    traces = x.covariance.trace() + y.covariance.trace()
    return float((x.mean - y.mean).square().sum() + traces - 2 * torch.linalg.svdvals(a.T @ b).sum())


def decaying(count: int, dimensions: int, seed: int, digits: float, axes: int = 9) -> Tensor:
    """Features whose standard deviations fall by so many digits."""
    turn, _ = torch.linalg.qr(random_features(dimensions, dimensions, axes).double())
    scale = torch.logspace(0, -digits, dimensions).double()
    noise = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)).double()
    return (noise * scale) @ turn + seed * 0.1


@pytest.mark.parametrize("digits", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("axes", [9, 10])
@pytest.mark.parametrize("count", [1500, 300])
def test_one_eigenvalue_problem_is_as_exact_as_singular_values(count: int, axes: int, digits: float) -> None:
    """Also of 300 samples in 512 dimensions, and where deviations differ by four digits, squares by eight."""
    x = Statistics.of(decaying(1500, 512, 1, digits)).factorized()
    y = Statistics.of(decaying(count, 512, 2, digits, axes))
    expected = slow_but_sure(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances_of_many_samples_are_exact_too() -> None:
    """Constant features, copies of features and of samples: no eigenvalue's noise is taken for a deviation."""
    x = random_features(400, 64, 1).double()
    real = Statistics.of(x).factorized()
    y = random_features(400, 64, 2).double()
    constant, twice = y.clone(), y.clone()
    constant[:, :20] = 1.5
    twice[:, 20:40] = y[:, :20]
    collapsed = y[torch.arange(400) % 25]
    for spoilt in (constant, twice, collapsed, collapsed[:60], torch.zeros_like(y)):
        found = Statistics.of(spoilt)
        assert frechet_distance(real, found) == pytest.approx(slow_but_sure(real, found), rel=1e-12)
    same = Statistics.of(torch.zeros(400, 64))
    assert frechet_distance(same, same) == frechet_distance(same.factorized(), same) == 0


def test_it_is_the_same_with_and_without_a_kept_factor_and_in_either_order() -> None:
    x, y = Statistics.of(random_features(200, 24, 1)), Statistics.of(random_features(90, 24, 2))
    expected = frechet_distance(x, y)
    for a, b in ((x.factorized(), y), (y, x.factorized()), (y, x), (x.factorized(), y.factorized())):
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "dimensions"), [(2, 5), (40, 64), (64, 64)])
def test_the_root_of_few_samples_is_one_of_their_covariance(count: int, dimensions: int) -> None:
    found = Statistics.of(random_features(count, dimensions, 3))
    assert found.root is not None and found.root.shape == (dimensions, count - 1)
    torch.testing.assert_close(found.root @ found.root.T, found.covariance, rtol=1e-10, atol=1e-10)
    factor = found.factorized().factor
    assert factor is not None and factor.shape == (dimensions, min(count - 1, dimensions))
    lengths = factor.norm(dim=0)
    assert (lengths.diff() <= 0).all()
    torch.testing.assert_close(factor @ factor.T, found.covariance, rtol=1e-10, atol=1e-10)
