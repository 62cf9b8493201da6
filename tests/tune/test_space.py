"""The space of a search: read from params.yaml, drawn by Optuna, enumerated as a grid, checked against the method."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from pipeline.config import read_params
from pipeline.config.search import Search, read_space
from pipeline.errors import UserError
from pipeline.tune.checks import check_searches
from pipeline.tune.space import draw, grid, grid_size, grid_values, rounded

SPACE: dict[str, Any] = {
    "depth": {"int": [1, 3], "when": {"net": "b"}},  # before what it waits for
    "net": {"choice": ["a", "b"]},
    "lr": {"loguniform": ["1e-4", "1e-2"], "points": 3},  # YAML 1.1 reads 1e-4 as text
    "betas": {"choice": [[0.5, 0.9], [0.0, 0.99]]},
    "size": {"int": [4, 12], "step": 4},
}


def search(space: dict[str, Any], **settings: Any) -> Search:
    return Search(**{"space": space, "objective": "x", "trials": 5} | settings)


def drawn(space: dict[str, Any], count: int, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [draw(search(space).domains, study.ask()) for _ in range(count)]


def test_draws_lie_in_the_space_and_conditional_params_exist_where_they_may() -> None:
    found = drawn(SPACE, 60)
    assert {values["net"] for values in found} == {"a", "b"}
    assert all(("depth" in values) == (values["net"] == "b") for values in found)
    assert {values["depth"] for values in found if "depth" in values} == {1, 2, 3}
    assert {values["betas"] for values in found} == {(0.5, 0.9), (0.0, 0.99)}
    assert {values["size"] for values in found} == {4, 8, 12}
    rates = sorted(values["lr"] for values in found)
    assert rates[0] >= 1e-4 and rates[-1] <= 1e-2
    assert 5e-4 < rates[30] < 2e-3, "the median of a log-uniform is the geometric mean"
    assert found == drawn(SPACE, 60) != drawn(SPACE, 60, seed=1)


def test_a_grid_has_every_combination_once() -> None:
    found = list(grid(search(SPACE).domains))
    assert len(found) == (1 + 3) * 3 * 2 * 3 == grid_size(search(SPACE).domains, 1000)
    assert len({repr(sorted(values.items())) for values in found}) == len(found)
    assert grid_size(search(SPACE).domains, 10) == 11
    assert sorted({values["lr"] for values in found}) == [1e-4, 1e-3, 1e-2]


def test_grid_values_reach_both_ends() -> None:
    domains = search(
        {"a": {"uniform": [0, 1], "step": 0.25}, "b": {"logint": [1, 64], "points": 4}, "c": {"uniform": [1, 2]}}
    ).domains
    assert grid_values(domains["a"]) == [0, 0.25, 0.5, 0.75, 1]
    assert grid_values(domains["b"]) == [1, 4, 16, 64]
    with pytest.raises(ValueError, match="points: 5"):
        grid_values(domains["c"])


def test_rounding_stays_in_the_range() -> None:
    assert rounded(0.00123456, 1e-4, 1e-2) == 0.001235
    assert rounded(0.012345678, 0.0, 0.01234) == 0.01234


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"loguniformm": [1, 2]}, "x.loguniformm: unknown param. Did you mean 'loguniform'?"),
        ({"uniform": [2, 1]}, "x.uniform: the range from 2 to 1 is empty"),
        ({"uniform": [1]}, "both ends of a range"),
        ({"uniform": ["a", 1]}, "expected numbers, got 'a'"),
        ({"loguniform": [0, 1]}, "a logarithm has no 0"),
        ({"int": [1.5, 2]}, "expected whole numbers, got 1.5"),
        ({"int": [1, 2], "choice": [1]}, "not int and choice"),
        ({}, "name its values by one of"),
        ({"choice": [1, 1]}, "1 stands there more than once"),
        ({"logint": [1, 8], "step": 2}, "x.step: logint has none"),
        ({"uniform": [1, 8], "points": 1}, "at least 2"),
        ({"int": [1, 2], "when": {"z": 1}}, "x.when.z: it is not searched for"),
        ({"int": [1, 2], "when": {"y": 7}}, "x.when.y: 7 is none of its choices"),
        ({"int": [1, 2], "when": {"x": 1}}, "only a choice can decide"),
        ({"choice": [1, 2], "when": {"x": 1}}, "wait for each other"),
    ],
)
def test_what_is_wrong_with_a_space_is_said_in_words(entry: dict[str, Any], message: str) -> None:
    _, problems = read_space({"x": entry, "y": {"choice": [1, 2]}}, "")
    assert len(problems) == 1 and message in problems[0], problems


def problems_of(folder: Path, run: str = "vae", name: str = "vae", **search: Any) -> list[str]:
    """What `genloom check` says of a search."""
    params = {"data": {"size": 16}, "runs": {run: {"method": run, "init_from": "scratch"}}, "evaluate": {}}
    params["evaluate"] = {"extractors": ["efficientnet_lite0"]}
    given = {"space": {"lr": {"loguniform": [1e-4, 1e-2]}}, "objective": "elbo_bits_per_dim", "trials": 5}
    params["search"] = {name: given | search}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    try:
        check_searches(read_params(path))
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vea"}, "search.vea: there is no such run. Did you mean 'vae'?"),
        ({"space": {"lrr": {"uniform": [1, 2]}}}, "space.lrr: vae has no such param. Did you mean 'lr'?"),
        ({"space": {"latent": {"uniform": [4, 64]}}}, "space.latent: expected a whole number"),
        ({"space": {"lr": {"uniform": [-1, 1]}}}, "space.lr: expected a number greater than 0, got -1.0"),
        ({"space": {"net": {"choice": ["dcgan", "resnett"]}}}, "Did you mean 'resnet'?"),
        ({"space": {"images": {"int": [1, 9]}}}, "space.images: cannot be searched for"),
        ({"searcher": "byes"}, "Did you mean 'bayes'?"),
        ({"trails": 5}, "search.vae.trails: unknown param. Did you mean 'trials'?"),
        ({"trials": None}, "say when the search ends"),
        ({"objective": "fid_efficientnet_lite"}, "Did you mean 'fid_efficientnet_lite0'?"),
        ({"objective": "bits_per_dim"}, "vae does not score itself by bits_per_dim. It has elbo_bits_per_dim."),
        ({"objective": ["seconds", "seconds"]}, "more than once"),
        ({"scheduler": "asha"}, "rungs: asha judges trials there"),
        ({"rungs": [3, 2]}, "ascending order"),
        ({"rungs": [100_000]}, "not before the end of a trial, at 60000"),
        ({"trial_images": 10**9}, "more than runs.vae.images"),
        ({"searcher": "grid"}, "points: 5"),
        ({"searcher": "grid", "space": {"latent": {"int": [1, 64]}}}, "the grid has at least 6 trials, and 5"),
        (
            {"searcher": "grid", "space": {"latent": {"int": [1, 64]}}, "trials": None, "images": 120_000},
            "and 2 of them",
        ),
        ({"cpus_per_trial": 10_000}, "cpus_per_trial: 10000 were asked for"),
        ({"scheduler": "median", "rungs": [9], "objective": ["seconds", "elbo_bits_per_dim"]}, "one objective"),
    ],
)
def test_a_search_that_does_not_fit_its_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    found = problems_of(tmp_path, **changes)
    assert any(message in problem for problem in found), found


def test_searches_that_fit_are_fine(tmp_path: Path) -> None:
    conditional = {
        "net": {"choice": ["dcgan", "resnet"]},
        "norm": {"choice": ["batch", "none"], "when": {"net": "dcgan"}},
    }
    assert problems_of(tmp_path, space=conditional, searcher="grid", trials=3) == []
    assert problems_of(tmp_path, "dcgan", "dcgan", objective=["fid_efficientnet_lite0", "seconds"]) == []
    found = problems_of(tmp_path, "dcgan", "dcgan")
    assert len(found) == 1 and "dcgan does not score itself by elbo_bits_per_dim. It has none" in found[0]
