"""What metrics say of classes and of memory: cases whose answer is known, and refusals that say what would do."""

import math

import pytest
import torch
from samplers import measured, random_features

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.metric import TooFewError, UnfitError
from pipeline.evaluate.metrics import class_fid, memorization, mode_coverage
from pipeline.evaluate.metrics.fid import frechet_distance


def values(metric: object, *sets: FeatureSet) -> dict[str, float]:
    return {name: score.value for name, score in metric.METRIC.compute(*sets).items()}  # type: ignore[attr-defined]


# FID within classes

LABELS = torch.arange(150) % 3


def test_within_classes_it_is_the_distance_of_each_ones_images() -> None:
    x, y = random_features(150, 6, 1), random_features(150, 6, 1)
    y[LABELS == 2] += 2
    each = [frechet_distance(*(Statistics.of(z[c == LABELS]) for z in (y, x))) for c in range(3)]
    found = values(class_fid, measured(y, labels=LABELS), measured(x, labels=LABELS))
    assert found["class_fid"] == pytest.approx(sum(each) / 3, rel=1e-10)
    assert found["worst_class_fid"] == pytest.approx(24, rel=1e-6)


def test_it_sees_what_fid_of_all_does_not() -> None:
    """All images are there, but of other classes than asked for."""
    x = random_features(50, 6, 1).repeat_interleave(3, 0) + 3 * LABELS[:, None]
    found = values(class_fid, measured(x, labels=(LABELS + 1) % 3), measured(x, labels=LABELS))
    assert found["class_fid"] == pytest.approx((3**2 + 3**2 + 6**2) * 6 / 3, rel=1e-5)
    assert abs(frechet_distance(Statistics.of(x), Statistics.of(x))) < 1e-9


def test_labels_that_mean_nothing_or_too_few_images_are_refused() -> None:
    x = random_features(150, 6, 1)
    real = measured(x, labels=LABELS)
    with pytest.raises(UnfitError, match="without regard to labels"):
        class_fid.METRIC.compute(measured(x, labels=LABELS, labelled=False), real)
    with pytest.raises(UnfitError, match="one class"):
        class_fid.METRIC.compute(real, measured(x))
    with pytest.raises(UnfitError, match="Class 0 has 17 real images; at least 20"):
        class_fid.METRIC.compute(real, measured(x[:50], labels=LABELS[:50]))
    with pytest.raises(UnfitError, match="Class 2 has 1 samples; at least 2"):
        class_fid.METRIC.compute(measured(x[:5], labels=LABELS[:5]), real)


# Mode coverage


def judged(counts: list[int], labels: torch.Tensor | None = None) -> FeatureSet:
    """Images that an extractor of four classes surely puts into these."""
    classes = torch.arange(4).repeat_interleave(torch.tensor(counts))
    logits = torch.eye(4)[classes] * 9
    return measured(torch.zeros(len(classes), 2), logits=logits, labels=classes if labels is None else labels)


def test_classes_are_counted_and_their_shares_compared() -> None:
    real = judged([25, 25, 25, 25])
    assert values(mode_coverage, real, real) == {"modes": 4, "mode_kl": 0}
    found = values(mode_coverage, judged([50, 0, 50, 0]), real)
    p, rare = 50.5 / 102, 0.5 / 102
    assert found["modes"] == 2
    assert found["mode_kl"] == pytest.approx(2 * p * math.log(4 * p) + 2 * rare * math.log(4 * rare), rel=1e-12)
    assert values(mode_coverage, judged([9000, 1000, 0, 0]), judged([2500] * 4))["mode_kl"] == pytest.approx(
        0.9 * math.log(3.6) + 0.1 * math.log(0.4), abs=0.003
    )


def test_an_extractor_of_other_classes_is_refused() -> None:
    real = judged([24, 24, 24, 24], labels=torch.arange(96) % 4)  # right for a quarter
    with pytest.raises(UnfitError, match="4 classes are not the data's: 25% of the real images"):
        mode_coverage.METRIC.compute(judged([25, 25, 25, 25]), real)
    beyond = judged([25, 25, 25, 25], labels=torch.full((100,), 7))
    with pytest.raises(UnfitError, match="0% of the real images"):
        mode_coverage.METRIC.compute(beyond, beyond)


# Memorization


def test_copies_score_one_strangers_nothing_and_new_images_one_half() -> None:
    x = random_features(400, 8, 3)
    real = measured(x)
    assert values(memorization, measured(x[:100]), real) == {"memorization": 1}
    assert values(memorization, measured(x[:100] + 1000), real) == {"memorization": 0}
    half = torch.cat((x[:50], x[:50] + 1000))
    assert values(memorization, measured(half), real) == {"memorization": 0.5}


def test_its_spread_is_that_of_new_images() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(60):
        x = torch.randn(260, 4, generator=generator)
        score = memorization.METRIC.compute(measured(x[200:]), measured(x[:200]))["memorization"]
        assert score.spread is not None
        found.append((score.value - 0.5) / score.spread)
    z = torch.tensor(found)
    assert abs(z.mean().item()) < 0.5 and 0.6 < z.std().item() < 1.5


def test_equal_distances_count_half() -> None:
    shares = memorization.shares_above(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0]))
    assert shares.tolist() == [(0.5 + 1) / 2, (0 + 1) / 2, 0]
    with pytest.raises(TooFewError, match="real images: at least 2 are needed, 1 are there"):
        memorization.METRIC.compute(measured(torch.zeros(3, 2)), measured(torch.zeros(1, 2)))
