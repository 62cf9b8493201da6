"""An interval says how far a number moves with other samples."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.evaluate import metrics
from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.interval import intervals, jackknife
from pipeline.evaluate.metric import PARTS, Metric, Quantity, Score, TooFewError
from pipeline.evaluate.metrics import fid, kid
from pipeline.evaluate.metrics.fid import frechet_distance, standard_error

DIMENSIONS = 8


def of(features: Tensor, logits: Tensor | None = None, distinct: int | None = None) -> FeatureSet:
    count = len(features)
    return FeatureSet(
        features=features,
        logits=torch.zeros(count, 2) if logits is None else logits,
        labels=torch.zeros(count, dtype=torch.int64),
        seed=0,
        distinct=count if distinct is None else distinct,
    )


def normal(seed: int, count: int = 400, shift: float = 0.3) -> FeatureSet:
    drawn = torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return of(drawn + shift, drawn[:, :4])


def mean_of(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    return {"mean": Score(float(samples.features[:, 0].double().mean()))}


MEAN = Metric(quantities={"mean": Quantity(title="Mean", better=None)}, needs=frozenset(), compute=mean_of)


def test_the_jackknifes_error_of_a_mean_is_the_standard_error() -> None:
    """In closed form, where the groups are of one sample's size times the same."""
    samples = normal(0, count=100)
    groups = samples.features[:, 0].double().reshape(PARTS, -1).mean(1)
    assert jackknife(MEAN, samples, samples)["mean"] == pytest.approx(float(groups.std()) / math.sqrt(PARTS), rel=1e-9)


@pytest.mark.parametrize("name", ["fid", "inception_score", "fid_infinity", "precision_recall"])
def test_the_error_is_how_far_the_number_moves_with_other_samples(name: str) -> None:
    metric, real = metrics.load(name), normal(1000, count=1000, shift=0.0)
    quantity = next(iter(metric.quantities))
    values, widths, holds = [], [], 0
    for seed in range(40):
        samples = normal(seed)
        found = dict(metric.compute(samples, real))
        interval = intervals(metric, found, samples, real)[quantity]
        values.append(found[quantity].value)
        widths.append((interval.high - interval.low) / 2)
        assert interval.error * (2.262 if interval.degrees == PARTS - 1 else 1.96) == pytest.approx(
            widths[-1], rel=1e-3
        )
    moved = torch.tensor(values, dtype=torch.float64)
    factor = 2.262 if "jackknife" in interval.by else 1.96
    assert sum(widths) / len(widths) / factor == pytest.approx(float(moved.std()), rel=0.3)
    center = float(moved.mean())
    holds = sum(abs(value - center) <= width for value, width in zip(values, widths, strict=True))
    assert 34 <= holds <= 40, "95% of 40 are 38"


def test_fid_of_fewer_samples_than_dimensions_finds_its_error_as_the_jackknife_would() -> None:
    """By sums from which each part is subtracted, not by ten covariances."""
    draw = torch.Generator().manual_seed(0)
    real, samples = (of(torch.randn(size, 100, generator=draw) + 1.0) for size in (300, 60))
    plain = replace(
        metrics.load("fid"), compute=lambda s, r: {"fid": Score(frechet_distance(r.statistics, s.statistics))}
    )
    wanted = jackknife(plain, samples, real)["fid"]
    found = metrics.load("fid").compute(samples, real)["fid"]
    assert (found.error, found.error_by) == (pytest.approx(wanted, rel=1e-6), "jackknife")


def test_fids_error_is_the_spread_of_its_derivative_at_the_samples() -> None:
    """In which direction the distance moves when a little of all weight goes to one sample, by differences."""
    draw = torch.Generator().manual_seed(0)
    real = Statistics.of(torch.randn(500, 6, generator=draw) * torch.tensor([1, 1, 1, 2, 3, 0.1])).factorized()
    samples = (torch.randn(80, 6, generator=draw) + 0.5).double()
    own, small, moved = Statistics.of(samples), 1e-5, []
    for sample in samples:
        away = sample - own.mean
        for step in (small, -small):
            covariance = (1 - step) * own.covariance + step * (1 - step) * torch.outer(away, away)
            moved.append(frechet_distance(Statistics(mean=own.mean + step * away, covariance=covariance), real))
    slopes = torch.tensor(moved).reshape(-1, 2).diff(dim=1)[:, 0] / (2 * small)
    found = standard_error(samples, own, real)
    assert found == pytest.approx(float(slopes.std()) / 80**0.5, rel=1e-3)
    with_features = metrics.load("fid").compute(of(samples.float()), replace(of(samples.float()), stored=real))["fid"]
    assert (with_features.error, with_features.error_by) == (pytest.approx(found, rel=1e-5), "normal")


def test_fids_error_needs_no_more_than_some_samples_and_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    real, samples = normal(1000, count=500, shift=0.0), normal(0, count=400)
    metric = metrics.load("fid")
    whole = metric.compute(samples, real)["fid"].error
    assert metric.compute(of(samples.features.repeat(2, 1), distinct=400), real)["fid"].error == whole
    monkeypatch.setattr(fid, "SAMPLES_FOR_ERROR", 200)
    some = metric.compute(samples, real)["fid"].error
    assert some != whole and some == pytest.approx(whole, rel=0.15)


def test_the_error_of_kid_is_how_far_its_estimate_moves_with_other_samples() -> None:
    """Of the estimate from all images, of which the mean over subsets is an approximation that costs much to repeat."""
    real = normal(1000, count=1000, shift=0.0).features
    sets = [normal(seed).features for seed in range(60)]
    moved = torch.tensor([kid.squared_mmd(samples, real) for samples in sets], dtype=torch.float64)
    errors = [kid.standard_error(samples, real) for samples in sets]
    assert sum(errors) / len(errors) == pytest.approx(float(moved.std()), rel=0.3)


def test_a_bootstrap_of_fid_is_biased_by_more_than_its_error() -> None:
    """Why it is not used: a resample is of fewer images."""
    real = normal(1000, count=1000, shift=0.0).statistics
    samples = normal(0, shift=0.0)
    whole = frechet_distance(Statistics.of(samples.features), real)
    draw = torch.Generator().manual_seed(0)
    resampled = [
        frechet_distance(Statistics.of(samples.features[torch.randint(400, (400,), generator=draw)]), real)
        for _ in range(50)
    ]
    found = torch.tensor(resampled)
    assert float(found.mean()) - whole > 2 * float(found.std())


def test_copies_count_once_and_too_few_samples_have_no_interval() -> None:
    samples = normal(0, count=100)
    twice = of(samples.features.repeat(2, 1), distinct=100)
    assert jackknife(MEAN, twice, twice) == jackknife(MEAN, samples, samples)
    few = normal(0, count=2 * PARTS - 1)
    with pytest.raises(TooFewError):
        jackknife(MEAN, few, few)
    assert intervals(MEAN, mean_of(few, few), few, few) == {}


def test_a_metric_gives_its_own_error_or_none() -> None:
    def own(error: float | None) -> Callable[[FeatureSet, FeatureSet], dict[str, Score]]:
        return lambda samples, real: {"mean": Score(2.0, error=error)}

    samples = normal(0)
    for error in (0.5, None):
        metric = Metric(quantities=MEAN.quantities, needs=frozenset(), compute=own(error), interval="own")
        found = intervals(metric, dict(metric.compute(samples, samples)), samples, samples)
        assert bool(found) == (error is not None)
        if found:
            assert [found["mean"].low, found["mean"].high] == pytest.approx([1.02, 2.98], abs=1e-4)
            assert found["mean"].by == "95%, normal, over samples"
