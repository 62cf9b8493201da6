"""Trainings beside each other in one `dvc repro`: as many as there are cores, those alone that DVC will come to."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cluster import ahead, beside
from pipeline.cluster.beside import Slots, to_come
from pipeline.config import Cluster, read_params
from pipeline.session.dvc import repro_of_everything
from pipeline.storage import dvc_cache

RUN = {"method": "vae", "init_from": "scratch", "seed": 0, "images": 1280, "batch_size": 64}
RUNS: dict[str, dict[str, Any]] = {
    "first": RUN,
    "second": RUN | {"lr": 0.001},
    "seeds": {key: value for key, value in RUN.items() if key != "seed"} | {"seeds": [0, 3]},
    "tuned": RUN | {"init_from": "runs/first"},
}
CODE = "out/code/train-vae.json"
MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slots:
    """Slots of a project with params.yaml and the code's hashes, where nothing has run."""
    monkeypatch.chdir(tmp_path)
    Path(CODE).parent.mkdir(parents=True)
    Path(CODE).write_text("{}")
    write_params(RUNS)
    return Slots(folder=tmp_path, number=3)


def write_params(runs: Mapping[str, Mapping[str, Any]]) -> None:
    Path("params.yaml").write_text(
        yaml.safe_dump({"data": {}, "runs": dict(runs), "evaluate": {"extractors": ["inception"]}, "render": {}})
    )


def write_lock(trained: Sequence[str]) -> None:
    """What DVC records of trainings, for the params and code of now, and the weights that they left."""
    data = {"path": "out/data", "md5": "d.dir"}
    code = {"path": CODE, "md5": hashlib.md5(Path(CODE).read_bytes()).hexdigest()}
    stages: dict[str, Any] = {"normalize": {"cmd": "normalize", "outs": [dict(data)]}}
    for name in trained:
        params = {"params.yaml": {f"runs.{name}": RUNS[name]}}
        weights = Path("out", "runs", name, "weights.safetensors")
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.touch()
        outs = [{"path": weights.as_posix(), "md5": MD5}]
        stages[f"train@{name}"] = {"cmd": "train", "params": params, "deps": [dict(code), dict(data)], "outs": outs}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def names(slots: Slots) -> list[str]:
    return [training.name for training in to_come(slots, read_params())]


def test_slots_are_held_by_one_at_a_time(slots: Slots) -> None:
    others = Slots(folder=slots.folder, number=3)
    with slots.hold(2) as ours, others.hold(5) as theirs:
        assert (ours, theirs, slots.free()) == (2, 1, 0)
    assert slots.free() == 3
    with slots.hold(0) as none:
        assert none == 0 and others.free() == 3


def test_a_training_is_begun_once(slots: Slots) -> None:
    assert slots.begun("first", 0) is None
    assert slots.begun("first", 0) == pytest.approx(slots.mark("first", 0).stat().st_mtime)
    assert slots.claim("first", 1) and not slots.claim("first", 1)


def test_what_comes_is_what_nothing_is_recorded_of(slots: Slots) -> None:
    """A run that begins from another waits for its own stage."""
    assert names(slots) == ["first", "second", "seeds seed 0", "seeds seed 3"]
    write_lock(["first", "seeds"])
    assert names(slots) == ["second"]
    slots.claim("second", 0)
    assert names(slots) == []


def test_what_comes_is_what_has_changed_since(slots: Slots) -> None:
    write_lock(list(RUNS))
    assert names(slots) == []
    write_params(RUNS | {"second": RUNS["second"] | {"lr": 0.002}})
    assert names(slots) == ["second"]
    Path(CODE).write_text("{ }")
    assert names(slots) == ["first", "second", "seeds seed 0", "seeds seed 3"]


def test_what_comes_in_a_fresh_clone_is_what_is_recorded_but_nowhere(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(list(RUNS))
    for name in ("first", "seeds"):
        Path("out", "runs", name, "weights.safetensors").unlink()
    assert names(slots) == ["first", "seeds seed 0", "seeds seed 3"]
    monkeypatch.setattr(dvc_cache, "_folder", lambda: slots.folder / "cache")  # from where DVC takes it again
    (kept := slots.folder / "cache/files/md5" / MD5[:2] / MD5[2:]).parent.mkdir(parents=True)
    kept.touch()
    assert names(slots) == []


def test_other_data_are_a_change(slots: Slots) -> None:
    write_lock(["first"])
    assert "first" not in names(slots)
    Path("dvc.lock").write_text(Path("dvc.lock").read_text().replace("md5: d.dir", "md5: e.dir", 1))
    assert "first" in names(slots)


@pytest.mark.parametrize(
    ("cluster", "trained", "all_of_it", "starts"),
    [
        ({"workers": 1}, [], True, True),
        ({"workers": 2}, ["first"], True, True),
        ({"workers": 1}, list(RUNS), True, False),
        ({"workers": 0}, [], True, False),
        ({"workers": 1, "address": "auto"}, [], True, False),
        ({"workers": 1}, [], False, False),
    ],
)
def test_rays_cluster_starts_ahead_where_a_training_will_need_it(
    slots: Slots,
    monkeypatch: pytest.MonkeyPatch,
    cluster: dict[str, Any],
    trained: list[str],
    all_of_it: bool,
    starts: bool,
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(beside.client, "folder", lambda: slots.folder)
    monkeypatch.setattr(beside, "repro_of_everything", lambda folder: all_of_it)
    monkeypatch.setattr(ahead, "start_shared", started.append)
    write_lock(trained)
    ahead.start_ahead(replace(read_params(), cluster=Cluster(**cluster)))
    assert started == [slots.folder] * starts


def test_a_lock_file_that_is_being_written_starts_nothing(slots: Slots) -> None:
    Path("dvc.lock").write_text("stages: {normalize: {cm")
    assert names(slots) == []


@pytest.mark.parametrize(
    ("words", "all_of_it"),
    [
        (["repro"], True),
        (["repro", "--keep-going", "-q"], True),
        (["repro", "train@vae"], False),
        (["repro", "--single-item", "train@vae"], False),
        (["repro", "--force"], False),
        (["exp", "run"], False),
        (["exp", "repro"], False),
    ],
)
def test_stages_that_dvc_was_not_asked_for_are_not_begun(tmp_path: Path, words: list[str], all_of_it: bool) -> None:
    program = "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program, *words], stdin=-1, stdout=-1) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()  # it is no longer a copy of this process
        assert repro_of_everything(tmp_path / f"{process.pid}-1-abc") == all_of_it
        process.stdin.close()
    assert not repro_of_everything(tmp_path / f"{process.pid}-1-abc")
