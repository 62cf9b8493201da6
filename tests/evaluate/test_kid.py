"""KID: the definition, closed forms of the kernel's moments, torch-fidelity's formula, and an honest spread."""

import math

import pytest
import torch
from samplers import random_features
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import TooFewError
from pipeline.evaluate.metrics import kid
from pipeline.evaluate.metrics.kid import METRIC, kernel_inception_distance, squared_mmd


def normal(count: int, mean: float, deviation: float, seed: int) -> Tensor:
    """(n, 1) float32."""
    return mean + deviation * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


def test_the_estimate_is_its_definition_pair_by_pair() -> None:
    x, y = random_features(5, 3, 1).double() / 4, random_features(7, 3, 2).double() / 4

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within_x = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (5 * 4)
    within_y = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (7 * 6)
    between = sum(k(a, b) for a in x for b in y) / (5 * 7)
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=1e-10)


def test_of_gaussians_it_is_the_closed_form() -> None:
    """In one dimension k(x, y) = (xy + 1)^3, so the squared MMD is a sum over the raw moments' differences."""
    (m, s), (n, t) = (0.3, 1.0), (-0.2, 0.7)
    moments = [(a, a * a + d * d, a**3 + 3 * a * d * d) for a, d in ((m, s), (n, t))]
    first, second, third = (p - q for p, q in zip(*moments, strict=True))
    expected = 3 * first**2 + 3 * second**2 + third**2
    found = [squared_mmd(normal(1000, m, s, 2 * i), normal(1000, n, t, 2 * i + 1)) for i in range(100)]
    mean, error = torch.tensor(found).mean().item(), torch.tensor(found).std().item() / math.sqrt(len(found))
    assert error < 0.05 * expected
    assert mean == pytest.approx(expected, abs=4 * error)


def test_it_has_no_bias_so_that_alike_sets_give_negative_values_as_well() -> None:
    found = torch.tensor([squared_mmd(normal(20, 0, 1, 2 * i), normal(20, 0, 1, 2 * i + 1)) for i in range(400)])
    assert (found < 0).float().mean() > 0.3 and (found > 0).float().mean() > 0.1
    assert abs(found.mean().item()) < 4 * found.std().item() / math.sqrt(len(found))


def test_it_agrees_with_torch_fidelity() -> None:
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = (random_features(50, 16, seed).double() for seed in (3, 4))
    settings = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1.0}
    theirs = metric_kid.kernel_mmd(x.numpy(), y.numpy(), kid_kernel_poly_gamma=None, **settings)
    assert squared_mmd(x, y) == pytest.approx(float(theirs), rel=1e-10)


def test_subsets_agree_with_the_whole_and_are_the_seeds() -> None:
    x, y = normal(400, 0.0, 1.0, 0), normal(600, 1.0, 1.0, 1)
    mean, spread = kernel_inception_distance(x, y, seed=0)
    assert kernel_inception_distance(x, y, seed=0) == (mean, spread)
    assert kernel_inception_distance(x, y, seed=1)[0] != mean
    assert mean == pytest.approx(squared_mmd(x, y), abs=3 * spread / math.sqrt(10))  # subsets overlap
    assert 0.02 * mean < spread < mean


def test_a_subset_is_never_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all subsets would be one, and the spread zero, however little is known."""
    x, y = normal(40, 0.0, 1.0, 0), normal(40, 1.0, 1.0, 1)
    sizes: list[int] = []
    drawn = kid._chosen
    monkeypatch.setattr(kid, "_chosen", lambda *a: sizes.append(int((found := drawn(*a)).sum())) or found)
    _, spread = kernel_inception_distance(x, y, seed=0)
    assert set(sizes) == {20} and spread > 0.05
    monkeypatch.setattr(kid, "SUBSET_SIZE", 10)
    sizes.clear()
    kernel_inception_distance(x, y, seed=0)
    assert set(sizes) == {10}


@pytest.mark.parametrize("rows", [1024, 7])
def test_all_subsets_at_once_are_each_subset_alone(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "_ROWS", rows)
    monkeypatch.setattr(kid, "SUBSET_SIZE", 12)
    x, y = random_features(31, 5, 1), random_features(40, 5, 2) * 1.5
    each = []
    for pair in range(9):
        parts = (z[kid._chosen(len(z), 12, 3, f"{kind}{pair}") > 0] for kind, z in (("x", x), ("y", y)))
        each.append(squared_mmd(*parts))
    found = torch.tensor(each, dtype=torch.float64)
    mean, spread = kernel_inception_distance(x, y, seed=3, subsets=9)
    assert mean == pytest.approx(float(found.mean()), rel=1e-12)
    assert spread == pytest.approx(float(found.std(correction=0)), rel=1e-10)
    assert spread > 0.01 * abs(mean) > 0


def test_subsets_are_drawn_without_repetition() -> None:
    drawn = kid._chosen(50, 25, 0, "x3")
    assert drawn.sort().values.tolist() == [0] * 25 + [1] * 25
    assert not torch.equal(drawn, kid._chosen(50, 25, 0, "x4"))


def test_copies_do_not_count() -> None:
    """A translation of the same image again is no further sample."""
    x, y = normal(60, 0.0, 1.0, 0), normal(80, 1.0, 1.0, 1)

    def measured(features: Tensor, distinct: int) -> FeatureSet:
        labels = torch.zeros(len(features), dtype=torch.int64)
        return FeatureSet(features=features, logits=features, labels=labels, seed=0, distinct=distinct)

    real = measured(y, 80)
    assert METRIC.compute(measured(x.repeat(3, 1), 60), real) == METRIC.compute(measured(x, 60), real)


def test_too_few_and_not_finite_images_are_refused() -> None:
    with pytest.raises(TooFewError, match="samples: at least 4 are needed, 3 are there"):
        kernel_inception_distance(torch.zeros(3, 2), torch.zeros(50, 2), seed=0)
    with pytest.raises(ValueError, match="finite"):
        kernel_inception_distance(torch.full((9, 2), float("nan")), torch.zeros(50, 2), seed=0)
