"""The stages download and normalize as commands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from toy_data import ROOT, split_images

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import open_dataset
from pipeline.ingest import sources

RNG = np.random.default_rng


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path / "project"


def stage(project: Path, name: str, limit: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"{limit} exec '{sys.executable}' -m pipeline.stages.{name}"
    return subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)


def params(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_stages_make_the_same_digits_every_time(project: Path) -> None:
    made = []
    for _ in range(2):
        for name in ("download", "normalize"):
            done = stage(project, name)
            assert done.returncode == 0, done.stderr
        made.append(contents(project / "out"))
    assert made[0] == made[1]
    dataset = open_dataset(project / "out" / "data")
    assert dataset.info["source"] == "digits" and dataset.spec == ImageSpec(channels=1, size=16, classes=10)
    assert len(dataset.splits["train"]) + len(dataset.splits["test"]) == 1797
    assert split_images(project / "out" / "data", "train").max() == 255


def test_chosen_digits_are_those_of_all(project: Path) -> None:
    images: dict[str, set[bytes]] = {}
    for chosen in ("null          ", "[3, 1]        "):
        for name in ("download", "normalize"):
            done = stage(project, name)
            assert done.returncode == 0, done.stderr
        dataset = open_dataset(project / "out/data")
        for name in ("3", "1"):
            found = [
                image.numpy().tobytes()
                for split in dataset.of_class(name).splits.values()
                for image in split.images(range(len(split)))
            ]
            assert images.setdefault(name, set(found)) == set(found)
        params(project, f"classes: {chosen}", "classes: [3, 1]        ")
    assert dataset.info["classes"] == ["3", "1"] and dataset.info["chosen_of"] == 10
    assert sum(map(len, dataset.splits.values())) == 183 + 182
    params(project, "[3, 1]", "[3, x]")
    done = stage(project, "normalize")
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: data.classes: there is no class 'x'. Known: 0, 1, 2,")
    assert open_dataset(project / "out/data").info == dataset.info


def test_bad_input_gets_one_line_and_leaves_nothing(project: Path) -> None:
    params(project, "source: digits", "source: digit")
    done = stage(project, "download")
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "error: params.yaml: data.source: there is no source 'digit'. Did you mean 'digits'?"
    ]
    params(project, "source: digit ", "source: digits ")
    done = stage(project, "download", limit="ulimit -f 20;")  # no file beyond 20 blocks: a full disk's twin
    assert done.returncode == 1 and done.stderr.splitlines() == ["error: out/raw: File too large."]
    assert [path.name for path in (project / "out").iterdir()] == []
    done = stage(project, "normalize")
    assert done.returncode == 1 and done.stderr.startswith("error: out/raw: not this source's files")
    assert len(done.stderr.splitlines()) == 1


def test_the_stages_import_nothing_heavy_before_they_work() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'mlflow', 'ray'}"
    code = f"import sys, pipeline.stages.download, pipeline.stages.normalize; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_source_is_listed_and_only_own_ones_at_every_repro() -> None:
    """data/dvc.yaml names the sources, since DVC can't ask them: a new one is added there."""
    stages = yaml.safe_load((ROOT / "data" / "dvc.yaml").read_text())["stages"]
    own = {name for name in sources.names() if sources.find(name).own}
    for stage, expected in {"own": own, "published": set(sources.names()) - own}.items():
        outs = {next(iter(out)) if isinstance(out, dict) else out for out in stages[stage]["outs"]}
        assert outs == {f"out/listing/{name}.csv" for name in expected}, stage
        assert set(stages[stage]["cmd"].split()[3:]) == expected, stage
    assert stages["own"]["always_changed"] and "always_changed" not in stages["published"]
