"""The Inception Score of predictions whose score is known, and torch-fidelity's of any."""

import pytest
import torch

from pipeline.evaluate.metrics.inception_score import inception_score


def test_inception_score_of_sure_and_diverse_predictions_is_the_number_of_classes() -> None:
    logits = torch.eye(7)[torch.arange(7 * 10) % 7] * 1e4  # probabilities of exactly 0 and 1
    mean, deviation = inception_score(logits)
    assert (mean, deviation) == (pytest.approx(7.0, rel=1e-12), pytest.approx(0.0, abs=1e-9))


def test_inception_score_of_equal_predictions_is_one() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).expand(50, 12)
    assert inception_score(logits) == (pytest.approx(1.0, rel=1e-12), pytest.approx(0.0, abs=1e-12))


def test_inception_score_is_of_ten_parts() -> None:
    sure = torch.eye(2)[torch.arange(50) % 2] * 1e3  # five parts of score 2
    same = torch.eye(2)[torch.zeros(50, dtype=torch.long)] * 1e3  # five of score 1
    assert inception_score(torch.cat((sure, same))) == (pytest.approx(1.5), pytest.approx(0.5))


@pytest.mark.parametrize("count", [100, 237])
def test_inception_score_agrees_with_torch_fidelity(count: int) -> None:
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(count, 20, generator=torch.Generator().manual_seed(count))
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = inception_score(logits)
    assert mean == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert deviation == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_STD], rel=1e-7)


def test_inception_score_refuses_few_samples_and_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="n >= 10"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="finite"):
        inception_score(torch.full((10, 3), float("nan")))
