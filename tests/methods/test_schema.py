"""The schema from which editors complete params.yaml: it is the committed one, and agrees with the checks."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from toy_data import ROOT

from pipeline import methods
from pipeline.methods import _schema

FILES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
BUILT = _schema.build()
VALIDATOR = jsonschema.Draft7Validator(BUILT)


def params(section: str, change: dict[str, Any]) -> dict[str, Any]:
    """The project's params, of whose section (or run, for "runs.<name>") some settings are changed."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    target = raw
    for key in section.split("."):
        target = target[key]
    target |= change
    return raw


def test_the_committed_schema_is_the_built_one() -> None:
    committed = json.loads((ROOT / _schema.PATH).read_text())
    assert committed == json.loads(json.dumps(BUILT)), "run `genloom schema`"


def test_it_is_a_schema_and_params_yaml_names_it() -> None:
    jsonschema.Draft7Validator.check_schema(BUILT)
    assert (ROOT / "params.yaml").read_text().startswith(f"# yaml-language-server: $schema={_schema.PATH}\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_projects_files_fit(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize("name", methods.names())
def test_every_method_fits_with_its_own_params_and_with_no_others(name: str) -> None:
    own = {key: schema["default"] for key, schema in _schema.properties(methods.find(name)).items()}
    run = {"method": name, "images": 1} | own
    assert VALIDATOR.is_valid(params("runs", {"x": run}))
    assert not VALIDATOR.is_valid(params("runs", {"x": run | {"lrr": 1}}))
    assert not VALIDATOR.is_valid(params("runs", {"x": run | {"lr": "fast"}}))
    assert not VALIDATOR.is_valid(params("runs", {"x": run | {"lr": 0}}))


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("data", {"sourc": "mnist"}),
        ("data", {"source": "mnst"}),
        ("data", {"channels": 2}),
        ("data", {"size": "big"}),
        ("runs.dcgan", {"batchsize": 64}),
        ("runs.dcgan", {"method": "dcgam"}),
        ("runs.dcgan", {"beta": 4.0}),
        ("runs.vae", {"norm": "bach"}),
        ("runs.vae", {"precision": "fp16"}),
        ("runs.vae", {"domains": ["a"]}),
        ("evaluate", {"extractors": []}),
        ("evaluate", {"extractors": ["incepton"]}),
        ("evaluate", {"extractors": ["mine.pt"]}),
        ("evaluate", {"statistics": ["theirs.npz"]}),
        ("cluster", {"workers": [0, 2]}),
    ],
)
def test_a_mistake_is_found(section: str, change: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(params(section, {}))
    assert not VALIDATOR.is_valid(params(section, change))


def test_programs_and_statistics_of_ones_own_fit() -> None:
    own = {"extractors": ["inception", "mine.pt2"], "path": "elsewhere", "statistics": {"inception": "theirs.npz"}}
    assert VALIDATOR.is_valid(params("evaluate", own))
