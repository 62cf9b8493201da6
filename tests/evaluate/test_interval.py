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
from pipeline.evaluate.metrics import kid
from pipeline.evaluate.metrics.fid import frechet_distance

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


@pytest.mark.parametrize(("count", "dimensions"), [(200, 8), (60, 100)], ids=["regular", "fewer than dimensions"])
def test_fid_finds_its_own_error_as_the_jackknife_would(count: int, dimensions: int) -> None:
    """By sums from which each part is subtracted, not by ten covariances."""
    draw = torch.Generator().manual_seed(0)
    real, samples = (of(torch.randn(size, dimensions, generator=draw) + 1.0) for size in (300, count))
    plain = replace(
        metrics.load("fid"), compute=lambda s, r: {"fid": Score(frechet_distance(r.statistics, s.statistics))}
    )
    wanted = jackknife(plain, samples, real)["fid"]
    assert metrics.load("fid").compute(samples, real)["fid"].error == pytest.approx(wanted, rel=1e-6)


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
