"""Precision, recall, density and coverage: sets whose answer is known, laws of expectation, other packages."""

import math
from types import SimpleNamespace

import pytest
import torch
from samplers import measured, random_features
from torch import Tensor

from pipeline.evaluate.metric import TooFewError
from pipeline.evaluate.metrics import density_coverage, precision_recall

LINE = torch.arange(10.0)[:, None]  # each third neighbour is 2 away, 3 at the ends; each fifth 3, 4 and 5 at the ends


def scores(samples: Tensor, real: Tensor, distinct: int | None = None) -> SimpleNamespace:
    sets = measured(samples, distinct=distinct), measured(real)
    found = precision_recall.METRIC.compute(*sets) | density_coverage.METRIC.compute(*sets)
    return SimpleNamespace(**{name: score.value for name, score in found.items()})


def test_of_points_on_a_line_they_are_counted_by_hand() -> None:
    found = scores(torch.tensor([[-3.5], [-2.9], [3.5], [20.0], [21.0], [22.0], [23.0]]), LINE)
    assert found.precision == 2 / 7  # the ball of 0 is from -3 to 3, that of 1 from -1
    assert found.recall == 1  # that of -3.5 reaches 20
    # Of five neighbours: from -5 to 5, -3 to 5, -1 to 5, 0 to 6, ... 4 to 10, 4 to 12, 4 to 14.
    assert found.density == pytest.approx((1 + 2 + 7) / (5 * 7))
    assert found.coverage == 0.7


def test_the_rim_belongs_to_the_ball() -> None:
    outside = torch.tensor([[12.0 + 1e-4], [30.0], [40.0], [50.0], [60.0], [70.0]])
    on_the_rim = torch.cat((torch.tensor([[12.0]]), outside[1:]))
    assert scores(outside, LINE).precision == 0 and scores(on_the_rim, LINE).precision == 1 / 6


def test_of_the_real_images_themselves_all_lie_inside() -> None:
    x = random_features(200, 16, 0)
    found = scores(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(6 / 5)  # each ball holds its centre and five others
    four_times = x.repeat(4, 1)
    again = scores(four_times, four_times)
    assert (again.precision, again.recall, again.coverage) == (1, 1, 1)  # prdc: 0 of each


def test_copies_of_a_sample_do_not_count() -> None:
    x, real = random_features(100, 8, 0), random_features(120, 8, 0)
    assert scores(x.repeat(3, 1), real, distinct=100) == scores(x, real)


def test_precision_of_one_is_recall_of_the_other() -> None:
    x = random_features(150, 8, 0)
    y = x.roll(1, 1) + 0.5
    one, other = scores(x, y), scores(y, x)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    assert 0 < one.precision < 1 and 0 < one.recall < 1


def test_a_collapsed_generator_is_precise_and_covers_nothing() -> None:
    real = random_features(300, 8, 0)
    middle = real[real.sub(real.mean(0)).norm(dim=1).argmin()]
    found = scores(middle + 1e-3 * torch.randn(300, 8, generator=torch.Generator().manual_seed(1)), real)
    assert found.precision == 1 and found.recall <= 1 / 300 and found.density > 1
    assert 1 / 300 <= found.coverage < 0.2


def test_what_lies_elsewhere_is_neither() -> None:
    real = random_features(100, 8, 0)
    found = scores(real + 1000, real)
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 25)])
def test_of_one_distribution_density_is_one_and_coverage_the_closed_form(n: int, m: int) -> None:
    """n real images, m samples."""
    generator = torch.Generator().manual_seed(n)
    draws = [torch.rand(n + m, 3, generator=generator) for _ in range(100)]
    found = [scores(draw[n:], draw[:n]) for draw in draws]
    missed = math.prod((n - i) / (n + m - i) for i in range(1, 6))
    for values, expected in (([f.density for f in found], 1.0), ([f.coverage for f in found], 1 - missed)):
        mean, error = torch.tensor(values).mean().item(), torch.tensor(values).std().item() / math.sqrt(len(values))
        assert error < 0.02 and mean == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 250, 20), (100, 100, 300)])
def test_precision_and_recall_agree_with_torch_fidelity(n: int, m: int, d: int) -> None:
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = random_features(n, d, 3), random_features(n + m, d, 3)[n:] * 1.02
    settings = {"prc_neighborhood": 3, "prc_batch_size": 64, "save_cpu_ram": True, "verbose": False}
    theirs = metric_prc.prc_features_to_metric(x.double(), y.double(), **settings)
    found = scores(x, y)
    assert found.precision == pytest.approx(theirs[metric_prc.KEY_METRIC_PRECISION], rel=1e-5)
    assert found.recall == pytest.approx(theirs[metric_prc.KEY_METRIC_RECALL], rel=1e-5)
    assert 0.05 < found.precision < 1


def test_too_few_images_are_refused() -> None:
    metric = precision_recall.METRIC
    with pytest.raises(TooFewError, match="samples: at least 4 are needed, 3 are there"):
        metric.compute(measured(LINE, distinct=3), measured(LINE))
    with pytest.raises(TooFewError, match="real images: at least 4 are needed, 3 are there"):
        metric.compute(measured(LINE), measured(LINE[:3]))
    with pytest.raises(TooFewError, match="real images: at least 6 are needed, 5 are there"):
        density_coverage.METRIC.compute(measured(LINE), measured(LINE[:5]))
    assert scores(LINE[:4], LINE[:6]).precision == 1
