"""Recall, coverage and precision say how far they move with other samples: the jackknife does not."""

from types import ModuleType

import pytest
import torch
from samplers import measured

from pipeline.evaluate import metrics
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.interval import intervals, jackknife
from pipeline.evaluate.metrics import density_coverage, memorization, precision_recall
from pipeline.evaluate.shares import FEWEST, binomial, fixed_balls, scale_free

QUANTITIES = {"recall": "precision_recall", "coverage": "density_coverage", "density": "density_coverage"}


def drawn(seed: int, count: int, scale: float = 1.0, shift: float = 0.0) -> FeatureSet:
    return measured(shift + scale * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.2), (0.7, 0.6)], ids=["alike", "less diverse, elsewhere"])
@pytest.mark.parametrize("metric", [precision_recall, density_coverage, memorization])
def test_an_interval_holds_the_mean_of_other_draws_as_often_as_it_says(
    metric: ModuleType, scale: float, shift: float
) -> None:
    """docs/metrics.md has the shares of 300 draws; 24 of 30 are three deviations from 95%."""
    real, draws = drawn(1000, 250), 30
    scores = [metric.METRIC.compute(drawn(seed, 200, scale, shift), real) for seed in range(draws)]
    for name in scores[0]:
        values = torch.tensor([score[name].value for score in scores], dtype=torch.float64)
        errors = torch.tensor([score[name].error for score in scores], dtype=torch.float64)
        held = int(((values - values.mean()).abs() <= 1.96 * errors).sum())
        assert 24 <= held <= draws, name
        assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1.0, abs=0.45), name


def test_the_jackknife_of_a_union_is_too_wide() -> None:
    """Why it is not used: it sees what few samples decide alone."""
    real = drawn(1000, 250)
    sets = [drawn(seed, 200) for seed in range(5)]
    for name, of in (("recall", precision_recall.METRIC), ("coverage", density_coverage.METRIC)):
        moved = torch.tensor([of.compute(drawn(seed, 200), real)[name].value for seed in range(30)]).std()
        wide = torch.tensor([jackknife(of, samples, real)[name] for samples in sets]).square().mean().sqrt()
        assert float(wide / moved) > 1.15, name


def test_one_sample_that_decides_all_and_samples_that_decide_nothing() -> None:
    """In closed form: a ball that lies in each half with one half's probability; two images more are its error."""
    own = torch.zeros(100, 40, dtype=torch.bool)
    assert fixed_balls(own, 400, 0) == pytest.approx(2**0.5 / 100)
    assert fixed_balls(~own, 400, 0) == pytest.approx(2**0.5 / 100)
    assert binomial(1.0, 100) == binomial(0.0, 100) == pytest.approx(2**0.5 / 100)
    assert binomial(0.5, 10**4) == pytest.approx(0.005, rel=1e-3)

    def always(half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(50, dtype=torch.bool), torch.ones(50, dtype=torch.bool)

    def first_alone(half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return half[0].expand(50), ~half[0].expand(50)

    assert scale_free(always, 400, 400, 100, 0) == pytest.approx(2**0.5 / 100)
    # own = 1 / 2, and of pairs too, so V(n) = 1 / 200 + 99 / 400
    assert scale_free(first_alone, 400, 400, 100, 0) == pytest.approx((1 / 200 + 99 / 400 + 2 / 100**2) ** 0.5)


def test_recalls_error_needs_no_more_than_some_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real, samples = drawn(1000, 300), drawn(0, 600, 0.8)
    whole = precision_recall.error_of_recall(samples, real)
    monkeypatch.setattr(precision_recall, "FOR_ERROR", 200)
    some = precision_recall.error_of_recall(samples, real)
    assert some != whole and some == pytest.approx(whole, rel=0.4)


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_share_has_an_interval_unless_samples_are_few(name: str) -> None:
    metric, real = metrics.load(QUANTITIES[name]), drawn(1000, 100)
    for count in (FEWEST, FEWEST - 1):
        samples = drawn(0, count)
        found = dict(metric.compute(samples, real))
        known = intervals(metric, found, samples, real)
        assert (name in known) == (count == FEWEST or name == "density")
        if name in known:
            assert known[name].low < found[name].value < known[name].high
            how = "normal" if name == "density" else "halves"
            assert known[name].by == f"95%, {how}, over samples"


def test_the_error_is_the_same_however_copies_and_order_of_metrics_are() -> None:
    real, samples = drawn(1000, 200), drawn(0, 120)
    twice = measured(samples.features.repeat(2, 1), distinct=120)
    first = precision_recall.METRIC.compute(samples, real), density_coverage.METRIC.compute(samples, real)
    after = density_coverage.METRIC.compute(twice, real), precision_recall.METRIC.compute(twice, real)
    assert first == after[::-1]
