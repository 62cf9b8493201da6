"""A run with several seeds is shown as the mean of its trainings, with an interval over them."""

import json
import math
from pathlib import Path

import pytest

from pipeline.evaluate.interval import over_trainings
from pipeline.evaluate.scoring import REDRAWN, Scores
from pipeline.evaluate.seeds import average
from pipeline.evaluate.student import chance, t_quantile
from pipeline.inference.published import run_of, training_of, trainings, write_seeds
from pipeline.inference.scored import are_scores_of, digest_of, of_seed

FID = "fid_efficientnet_lite0"


def scored(value: float | None, weights: str = "a", **about: object) -> Scores:
    how = {"metric": "fid", "title": "FID", "better": "lower", "generated": {"run_weights": weights}, **about}
    return Scores({} if value is None else {FID: value}, {FID: how})


def test_the_mean_has_students_interval_over_trainings() -> None:
    """Of 1, 2, 3: s = 1, so the error is 1 / sqrt(3), with 2 degrees of freedom: t = 4.303."""
    found = average({seed: scored(value, interval={"low": 0}) for seed, value in {0: 1.0, 4: 2.0, 7: 3.0}.items()})
    assert found.metrics == {FID: 2.0}
    interval = found.protocol[FID]["interval"]
    assert interval["high"] - 2.0 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert 2.0 - interval["low"] == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert interval["error"] == pytest.approx(1 / math.sqrt(3)) and interval["degrees"] == 2
    assert "over seeds" in interval["by"] and "3 trainings" in interval["by"]


def test_each_training_keeps_its_own_number_and_protocol() -> None:
    alone = {0: scored(1.0, "a", interval={"low": 0.5}), 1: scored(2.0, "b", interval={"low": 1.5})}
    found = average(alone)
    protocol = json.loads(json.dumps(found.protocol))
    for seed, one in alone.items():
        assert of_seed(protocol, seed) == (one.metrics, one.protocol)
    assert of_seed(protocol, 2) == ({}, {})


def test_a_number_that_one_training_lacks_has_no_mean_and_says_of_which_seed() -> None:
    found = average({0: scored(1.0), 3: scored(None, refused="the samples are not finite.")})
    assert found.metrics == {}
    assert found.protocol[FID]["refused"] == "seed 3: the samples are not finite."
    assert of_seed(found.protocol, 0)[0] == {FID: 1.0}


def test_what_all_trainings_lack_for_one_reason_is_said_once() -> None:
    found = average({seed: scored(None, lacks="too few images.") for seed in (0, 1, 2)})
    assert found.protocol[FID]["lacks"] == "too few images."
    two = average({seed: scored(None if seed else 1.0, lacks="too few images.") for seed in (0, 1, 2)})
    assert two.protocol[FID]["lacks"] == "seeds 1, 2: too few images."


def test_samples_drawn_anew_count_as_none_where_there_were_none() -> None:
    redrawn = Scores({FID: 1.0, REDRAWN: 4}, {FID: {}, REDRAWN: {"metric": REDRAWN}})
    found = average({0: redrawn, 1: Scores({FID: 1.0}, {FID: {}})})
    assert found.metrics[REDRAWN] == 2.0


def test_the_first_training_lies_in_the_runs_folder_and_the_others_in_seeds(tmp_path: Path) -> None:
    run = tmp_path / "dcgan"
    assert trainings(run) == [run], "a folder of before, or of a published checkpoint"
    write_seeds(run, [5])
    assert trainings(run) == [run]
    write_seeds(run, [5, 0, 2])
    assert trainings(run) == [run, run / "seeds/0", run / "seeds/2"]
    assert [training_of(run, seed, [5, 0, 2]) for seed in (5, 0, 2)] == trainings(run)
    assert {run_of(place) for place in trainings(run)} == {run}


def test_scores_are_of_a_trainings_own_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    digest = digest_of(tmp_path / "weights.safetensors")
    protocol = average({0: scored(1.0, digest), 1: scored(2.0, "other")}).protocol
    assert are_scores_of(tmp_path, of_seed(protocol, 0)[1])
    assert not are_scores_of(tmp_path, of_seed(protocol, 1)[1])


def test_two_numbers_differ_by_welchs_test() -> None:
    """Equal errors of 2 degrees each make 4 (t = 2.776); one known error leaves the other's degrees to count."""
    assert chance((1.0, 2), (1.0, 2)) == pytest.approx(2.7764 * math.sqrt(2), rel=1e-4)
    assert chance((3.0, 2), (0.0, None)) == pytest.approx(3 * 4.3027, rel=1e-4)
    assert chance((3.0, None), (4.0, None)) == pytest.approx(5 * 1.95996, rel=1e-4)
    assert chance((0.0, None), (0.0, None)) == 0.0
    assert t_quantile(9) == pytest.approx(2.262157, rel=1e-5)


def test_equal_trainings_have_an_interval_without_width() -> None:
    interval = over_trainings([2.0, 2.0])
    assert (interval.low, interval.high, interval.error) == (2.0, 2.0, 0.0)
