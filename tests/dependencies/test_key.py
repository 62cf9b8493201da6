"""Equal keys mean the same training; two that differ say in what."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_job import job, train_on, trained_here

from pipeline import methods
from pipeline.config import Cluster, Run
from pipeline.dependencies.key import FILE, TrainingKey, differences
from pipeline.errors import UserError

KEY = TrainingKey(params={"method": "dcgan", "lr": 0.1}, data="d", code={"pipeline/core/loop.py": "a"})


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (replace(KEY, params=KEY.params | {"lr": 0.2}), ["lr"]),
        (replace(KEY, params=KEY.params | {"width": 8}), ["width"]),
        (replace(KEY, data="e"), ["the data"]),
        (replace(KEY, code={"pipeline/core/loop.py": "b"}), ["pipeline/core/loop.py"]),
        (replace(KEY, code={**KEY.code, "pipeline/nets/dcgan.py": "c"}), ["pipeline/nets/dcgan.py"]),
        (replace(KEY, initial="w"), ["the weights it begins from"]),
    ],
)
def test_whatever_differs_makes_another_key_and_is_named(tmp_path: Path, other: TrainingKey, what: list[str]) -> None:
    assert KEY.course != other.course and KEY.digest != other.digest
    KEY.write(tmp_path)
    assert differences(tmp_path, other) == what
    assert differences(tmp_path, replace(KEY)) == [] and KEY.digest == replace(KEY).digest


@pytest.mark.parametrize("content", [None, "{", "[]", '{"params": 1}'])
def test_a_folder_of_an_earlier_version_is_said_to_be_one(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert differences(tmp_path, KEY) == ["its code, of which an earlier version of Genloom kept no account"]


def test_the_code_of_a_key_is_what_the_stage_code_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, method = Run(method="dcgan"), methods.load("dcgan")
    with pytest.raises(UserError, match=r"out/code/course-dcgan\.json.*dvc repro code"):
        TrainingKey.of(run, method, "d")
    Path("out/code").mkdir(parents=True)
    Path("out/code/course-dcgan.json").write_text(json.dumps({"digest": "x", "files": dict(KEY.code)}))
    assert TrainingKey.of(run, method, "d").code == KEY.code


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/code").mkdir(parents=True)
    for name in ("dcgan", "r3gan"):
        Path(f"out/code/course-{name}.json").write_text(json.dumps({"files": {"pipeline/core/loop.py": "a"}}))


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("settings", "own", "other_course", "other_result"),
    [
        ({"images": 70_000}, {}, False, True),
        ({"images": 70_000}, {"schedule": "cosine"}, True, True),
        ({"log_every": 10}, {}, False, True),
        ({"snapshot_every": 10}, {}, False, True),
        ({"watch_every": 10}, {}, False, True),
        ({"stop_on": ("collapse",)}, {}, False, True),
        ({"keep": "frechet_pixels"}, {}, False, True),
        ({"checkpoint_every": 10}, {}, False, False),
        ({"weights": "elsewhere.safetensors"}, {}, False, False),
        ({"seed": 0, "batch_size": 64}, {"lr": 2e-4}, False, False),  # the defaults, written out
        ({"seed": 1}, {}, True, True),
        ({"ema_half_life": 1}, {}, True, True),
        ({}, {"width": 8}, True, True),
    ],
)
def test_a_course_is_what_decides_the_states(
    settings: dict[str, Any], own: dict[str, Any], other_course: bool, other_result: bool
) -> None:
    """A budget counts only where a schedule runs over it, and how often something is made never does."""
    schedule = {"schedule": own["schedule"]} if "schedule" in own else {}
    before = TrainingKey.of(Run(method="dcgan"), methods.load("dcgan", **schedule), "d")
    after = TrainingKey.of(Run(**{"method": "dcgan"} | settings), methods.load("dcgan", **own), "d")
    assert (before.course != after.course, before.digest != after.digest) == (other_course, other_result)


@pytest.mark.usefixtures("code")
def test_where_a_schedule_forbids_another_budget_that_is_said(tmp_path: Path) -> None:
    method = methods.load("r3gan")
    first, second = (TrainingKey.of(Run(method="r3gan", images=images), method, "d") for images in (1000, 2000))
    first.write(tmp_path)
    assert differences(tmp_path, second) == ["images (its schedule runs over the whole budget)"]
    assert differences(tmp_path, first) == []


def test_a_training_says_where_it_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From a checkpoint; anew, though an earlier training of the run is at hand; and finished already."""
    first = replace(job(tmp_path), store=str(tmp_path / f"trainings/toy-{'1' * 16}"))
    trained_here(replace(first, run=replace(first.run, images=128)))
    second = replace(first, store=str(tmp_path / f"trainings/toy-{'2' * 16}"), key="other")
    with caplog.at_level(logging.INFO, logger="pipeline"):
        for work in (first, first, second):
            train_on(Cluster(workers=0), work)
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.cluster.launch"]
    assert said[0] == "toy: going on from the checkpoint at 128 images"
    assert said[1].startswith("toy: this very training is finished")
    assert (
        said[2]
        == "toy: starting at 0; the earlier training in toy-1111111111111111 differs in nothing that its key names"
    )
