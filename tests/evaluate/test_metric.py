"""The contract of metrics: what the registry finds, declarations that hold, and pure functions."""

from typing import Any

import pytest
import torch
from samplers import random_features

from pipeline.config import Evaluate
from pipeline.errors import UserError
from pipeline.evaluate import metrics, own_scores
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Quantity

NEITHER = {"memorization"}  # best at one half


class Guarded:
    """A feature set of which only some parts may be touched."""

    def __init__(self, whole: FeatureSet, allowed: frozenset[str]) -> None:
        known = {"distinct_features", "nearest", "points", "overlap"} if "features" in allowed else set()
        self._whole, self._allowed = whole, allowed | {"seed", "distinct", "labelled"} | known

    def __len__(self) -> int:
        return len(self._whole)

    def __getattr__(self, name: str) -> Any:
        assert name in self._allowed, f"'{name}' is not declared in needs"
        return getattr(self._whole, name)


def feature_set(seed: int, count: int = 120) -> FeatureSet:
    labels = torch.arange(count) % (10 + seed) % 3
    features, logits = (
        random_features(count, 4, seed),
        torch.eye(7)[labels] * 20 + random_features(count, 7, seed) - seed,
    )
    paths = random_features(count, 1, seed)[:, 0].double().square() + seed
    return FeatureSet(features=features, logits=logits, labels=labels, seed=5, distinct=count, paths=paths)


def test_every_file_is_a_metric() -> None:
    assert metrics.names() == [
        *("class_fid", "density_coverage", "fid", "fid_infinity", "inception_score", "kid", "memorization"),
        *("mode_coverage", "path_length", "precision_recall"),
    ]


@pytest.mark.parametrize("name", metrics.names())
def test_a_metric_keeps_what_it_declares(name: str) -> None:
    metric, samples, real = metrics.load(name), feature_set(1), feature_set(2)
    assert metric.needs and metric.needs <= {"statistics", "features", "logits", "labels", "paths", "model"}
    scores = metric.compute(Guarded(samples, metric.needs), Guarded(real, metric.needs))  # type: ignore[arg-type]
    assert scores.keys() == metric.quantities.keys()
    assert all(metric.describe(key).better in ("lower", "higher") or key in NEITHER for key in scores)
    assert scores == metric.compute(samples, real)
    alone = metric.compute(samples, feature_set(3))
    assert (alone == scores) is not metric.compares


@pytest.mark.parametrize("name", metrics.names())
def test_the_better_direction_is_that_of_samples_like_the_real_images(name: str) -> None:
    metric, real = metrics.load(name), feature_set(2)
    sure = FeatureSet(features=real.features, logits=torch.eye(7)[real.labels] * 50, paths=real.paths, **rest(real))
    far = real.paths + 1
    spoilt = FeatureSet(features=real.features + 5, logits=torch.zeros(len(real), 7), paths=far, **rest(real))
    for key, score in metric.compute(sure, real).items():
        other = metric.compute(spoilt, real)[key].value
        if key in NEITHER:
            continue
        assert (score.value < other) if metric.describe(key).better == "lower" else (score.value > other)


def rest(like: FeatureSet) -> dict[str, Any]:
    return {"labels": like.labels, "seed": like.seed, "distinct": like.distinct}


def test_a_misspelt_metric_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"evaluate\.metrics.*'kdi'.*'kid'"):
        metrics.load("kdi")
    with pytest.raises(ValueError, match=r"metrics: there is no metric 'kdi'.*'kid'"):
        Evaluate(metrics=["fid", "kdi"], extractors=["inception"])
    with pytest.raises(ValueError, match=r"extractors: there is no extractor 'inceptoin'.*'inception'"):
        Evaluate(extractors=["inceptoin"])


@pytest.mark.parametrize(
    ("name", "title", "better"),
    [
        ("bits_per_dim", "bits/dim", "lower"),
        ("elbo_bits_per_dim", "ELBO bits/dim", "lower"),
        ("binarized_elbo_bits_per_dim", "binarized ELBO bits/dim", "lower"),
        ("iwae_bits_per_dim", "IWAE bits/dim", "lower"),
        ("nats_per_code", "nats/code", "lower"),
        ("mean_pixel", "mean pixel", None),
    ],
)
def test_a_methods_own_score_has_title_and_direction_by_its_unit(name: str, title: str, better: Any) -> None:
    assert own_scores.METRIC.describe(name) == Quantity(title=title, better=better)
