"""What an edit or an act redoes: real DVC in a repository of its own.

After an edit the stage `code` runs; then DVC is asked which stages are out of date.
"""

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from repository import RUNS, call, commit, environment, stages_that_ran, write_params
from tracing import uncounted

from pipeline.config import pictures
from pipeline.dependencies.entries import CHOSEN, COMPARISONS, ENTRIES, EXTRACTORS, METHODS, METRICS, PICTURES, SOURCES
from pipeline.dependencies.meaning import meaning
from pipeline.inference.scored import of_seed

OF_DCGAN = {"dcgan", "tuned"}
EDITED = ("", "\n\nEDITED = 1\n")  # at the end of a file that a run or params.yaml choose by name: all of it counts


def of_runs(*stages: str, runs: set[str] | None = None) -> set[str]:
    return {f"{stage}@{run}" for stage in stages for run in runs or set(RUNS)}


def out_of_date(folder: Path) -> set[str]:
    """The stages that `dvc repro` would run after the stage `code`, which compares code and so runs after any edit."""
    call(folder, sys.executable, "-m", "pipeline.stages.code")
    return stale(folder) - {"code"}


def stale(folder: Path) -> set[str]:
    """The stages that DVC finds changed, without those that only follow them."""
    with Repo(str(folder)) as repo:
        return {name.rpartition(":")[2] for name in repo.status()} - {"own"}  # of data/dvc.yaml: always looked at


@contextmanager
def edits(folder: Path, changes: dict[str, tuple[str, str]]) -> Iterator[None]:
    """Within the block a file has another text in place of one; in place of none, further text."""
    before = {name: (folder / name).read_text() if (folder / name).exists() else None for name in changes}
    try:
        for name, (old, new) in changes.items():
            text = before[name] or ""
            assert old in text, f"{name} has no {old!r}"
            (folder / name).write_text(text.replace(old, new) if old else text + new)
        yield
    finally:
        for name, original in before.items():
            if original is None:
                (folder / name).unlink()
            else:
                (folder / name).write_text(original)


def test_comments_docstrings_and_formatting_redo_nothing(project: Path) -> None:
    """In every file at once."""
    changes = {}
    for path in sorted((project / "pipeline").rglob("*.py")):
        name, text = path.relative_to(project).as_posix(), path.read_text()
        if text:
            spread = text.replace('"""', '"""Edited. ', 1).replace("(", "(  ").replace(" = ", "  =  ")
            changes[name] = (text, ("# a comment\n" if "from __future__" not in text else "") + spread)
    for name in [name for name, (_, new) in changes.items() if not same_strings(*changes[name])]:
        del changes[name]
    assert len(changes) > 50
    with edits(project, changes):
        assert out_of_date(project) == set()


def same_strings(old: str, new: str) -> bool:
    """Whether the spreading of parentheses left the strings in the code as they were."""
    return meaning(ast.parse(old)) == meaning(ast.parse(new))


WATCHERS = {
    f"pipeline/{name}.py": EDITED
    for name in (
        "console",
        "errors",
        "tracking/progress",
        "tracking/journal",
        "tracking/lineage",
        "tracking/shipper",
        "cluster/driver",
        "cluster/launch",
        "storage/checkpoint",
        "storage/remote",
    )
}
FOLDERS = ("nets", "families", "methods", "ingest/sources", "evaluate/extractors", "evaluate/metrics")
FOLDERS += ("render/pictures", "render/comparisons")
NEW = {f"pipeline/{folder}/newcomer.py": ("", "X = 1\n") for folder in FOLDERS}
A_NET = {
    "pipeline/nets/resnet.py": ("class Generator(nn.Module):\n", "class Generator(nn.Module):\n    edited = True\n")
}
ANOTHER_NET = {
    "pipeline/nets/biggan.py": ("class Generator(nn.Module):\n", "class Generator(nn.Module):\n    edited = 1\n")
}
STREAM = {"pipeline/data/stream.py": ("position += batch_size", "position += batch_size * 1")}
LOCAL = {"cluster": {"workers": 2, "address": "auto"}, "tracking": {"uri": "sqlite:///other.db"}}


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        pytest.param(WATCHERS, set(), id="code that watches"),
        pytest.param(NEW, set(), id="a new file in each folder of choices"),
        pytest.param(
            {"pipeline/methods/dcgan.py": EDITED}, of_runs("train", "generate", "render", runs=OF_DCGAN), id="a method"
        ),
        pytest.param(A_NET, of_runs("train", "generate", "render"), id="a net that the methods offer by name"),
        pytest.param(ANOTHER_NET, set(), id="a net of another method"),
        pytest.param(
            {"pipeline/evaluate/metrics/fid.py": EDITED},
            of_runs("evaluate") | {"evaluate_real", "report"},
            id="a metric",
        ),
        pytest.param({"pipeline/evaluate/metrics/kid.py": EDITED}, set(), id="a metric that is not in use"),
        pytest.param({"pipeline/render/pictures/saliency.py": EDITED}, of_runs("render"), id="a picture"),
        pytest.param({"pipeline/render/comparisons/pca.py": EDITED}, of_runs("evaluate"), id="a comparison"),
        pytest.param({"pipeline/render/comparisons/tsne.py": EDITED}, set(), id="a comparison that is not in use"),
        pytest.param(
            {"pipeline/evaluate/extractors/efficientnet_lite0.py": EDITED},
            of_runs("generate") | {"extractors", "reference"},
            id="an extractor",
        ),
        pytest.param({"pipeline/evaluate/extractors/classifier.py": EDITED}, set(), id="an extractor not in use"),
        pytest.param({"extractors/README.md": ("", "x")}, {"extractors"}, id="a file in evaluate.path"),
        pytest.param({"pipeline/watch/measures/diversity.py": EDITED}, of_runs("train"), id="what is watched"),
        pytest.param(STREAM, of_runs("train"), id="the stream of training batches"),
        pytest.param(
            {"pipeline/ingest/sources/digits.py": EDITED}, {"download", "normalize"}, id="the source of the data"
        ),
        pytest.param({"pipeline/render/report.html": EDITED}, {"report"}, id="the page's template"),
        pytest.param({"pipeline/render/explorer.js": EDITED}, {"report"}, id="the page's scripts"),
    ],
)
def test_code_redoes_what_it_decides(project: Path, changes: dict[str, tuple[str, str]], stages: set[str]) -> None:
    with edits(project, changes):
        assert out_of_date(project) == stages


def with_params(folder: Path, changes: dict[str, dict[str, object]]) -> dict[str, tuple[str, str]]:
    """An edit of params.yaml that updates its sections."""
    text = (folder / "params.yaml").read_text()
    params = yaml.safe_load(text)
    for section, values in changes.items():
        params[section] |= values
    return {"params.yaml": (text, yaml.safe_dump(params, sort_keys=False))}


TRACE = """
import importlib
import json
import sys

from tracing import called

stage = importlib.import_module(f"pipeline.stages.{sys.argv[1]}")
print(json.dumps(sorted(called(lambda: stage.main(*sys.argv[2:])))))
"""
# They read params and connect; what they read DVC compares itself.
WIRING = ("pipeline.stages", "pipeline.config", "pipeline.registry", "pipeline.files", "pipeline.methods.__init__")
# They keep a failure for the report, or are called by what tells MLflow: neither changes an output of the stage.
WIRING += ("pipeline.render.failures", "pipeline.render.shown", "pipeline.inference.scored", "pipeline.core.world")
# It finds a file that is an entry itself; and where a run's trainings lie, what tells MLflow asks.
WIRED = {"pipeline.ingest.sources:find", "pipeline.inference.published:read_seeds"}
WIRED |= {"pipeline.inference.published:training_of"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stage for stage in ENTRIES if stage != "train"])
def test_whatever_a_stage_executes_is_counted(project: Path, stage: str) -> None:
    """Of the stages after and before training, of which test_closure.py holds the same."""
    entries, package = ENTRIES[stage]
    choice = {METHODS: "dcgan", SOURCES: "digits"}.get(package or "")
    arguments = ["dcgan"] if package == METHODS or stage == "evaluate" else []
    path = {"PYTHONPATH": f"{project}:{project / 'tests'}"}
    command = [sys.executable, "-c", TRACE, stage, *arguments]
    done = subprocess.run(command, cwd=project, env=environment() | path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {EXTRACTORS: ["efficientnet_lite0"], METRICS: ["fid", "inception_score"]}
    chosen |= {PICTURES: list(pictures.PICTURES), COMPARISONS: ["pca"]}
    common = [f"{kind}.{name}" for kind in CHOSEN.get(stage, ()) for name in chosen[kind]]
    all_entries = [*entries, *common, *([f"{package}.{choice}"] if package else [])]
    found = uncounted(project, json.loads(done.stdout.splitlines()[-1]), all_entries, WIRING)
    assert not found - WIRED
    assert not stale(project) - {"code", "report"}  # the same bytes again


def test_params_redo_what_they_decide(project: Path) -> None:
    assert out_of_date(project) == set()  # every edit above is undone
    with edits(project, with_params(project, {"runs": {"vae": RUNS["vae"] | {"lr": 0.002}}})):
        assert stale(project) == {"code", "train@vae", "report"}  # code checks params, and its outputs stay the same
        assert out_of_date(project) == {"train@vae", "report"}
    with edits(project, with_params(project, LOCAL)):
        assert stale(project) == set()


def test_nothing_that_ships_is_a_stage_of_an_empty_group(project: Path) -> None:
    """DVC takes an empty group for all stages: `dvc repro -f GROUP` would redo everything."""
    with Repo(str(project)) as repo:
        names = {stage.addressing.rpartition(":")[2] for stage in repo.index.stages}
    declared = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    for name, stage in declared.items():
        assert ("foreach" in stage) == (name not in names), name
        assert name in names or any(found.startswith(f"{name}@") for found in names), name


@pytest.fixture(scope="module")
def shared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, its results pushed to a remote."""
    remote = tmp_path_factory.mktemp("remote")
    call(project, "dvc", "remote", "add", "-f", "-d", "store", str(remote))
    call(project, "dvc", "push", "-q")
    if call(project, "git", "status", "--porcelain"):
        commit(project, "remote")
    return project


def test_another_machine_that_pulls_redoes_nothing_there_or_elsewhere(shared: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    call(shared, "git", "clone", "-q", str(shared), str(clone))
    call(clone, "dvc", "pull", "-q")
    # params.yaml was not checked there, and the empty listing, which is in no cache, has to be written
    assert stale(clone) == {"code", "published", "download"}
    with edits(clone, with_params(clone, LOCAL)):
        assert set(stages_that_ran(call(clone, "dvc", "repro"))) == {"code", "data/dvc.yaml:published"}
        assert stale(clone) == set()


@pytest.mark.slow
def test_experiments_redo_what_they_change_and_can_be_applied_and_undone(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    call(shared, "git", "clone", "-q", str(shared), str(folder))
    call(folder, "dvc", "pull", "-q")
    of_vae = {"code", *of_runs("train", "generate", "evaluate", "render", runs={"vae"}), "report"}
    of_vae |= {"data/dvc.yaml:published"}
    output = call(folder, "dvc", "exp", "run", "--temp", "-n", "temporary", "-S", "runs.vae.seed=3")
    assert set(stages_that_ran(output)) == of_vae
    for seed in (4, 5):
        call(folder, "dvc", "exp", "run", "--queue", "-n", f"seed-{seed}", "-S", f"runs.vae.seed={seed}")
    # Without a pipe: the workers inherit it, and one may outlive its last experiment, so that reading would not end.
    start = ["dvc", "queue", "start", "-j", "2"]
    subprocess.run(
        start, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    wait_for_queue(folder)
    call(folder, "dvc", "queue", "stop", "--kill")
    for seed in (4, 5):
        logs = call(folder, "dvc", "queue", "logs", f"seed-{seed}")
        assert set(stages_that_ran(logs)) == of_vae, logs
    call(folder, "dvc", "exp", "apply", "seed-4")
    nothing_is_redone(folder)
    assert yaml.safe_load((folder / "params.yaml").read_text())["runs"]["vae"]["seed"] == 4
    commit(folder, "seed 4")
    call(folder, "git", "checkout", "-q", "HEAD~1")
    call(folder, "dvc", "checkout", "-q")
    nothing_is_redone(folder)


def nothing_is_redone(folder: Path) -> None:
    """What DVC keeps no copy of is made, which takes a moment; all else is as it was."""
    assert set(stages_that_ran(call(folder, "dvc", "repro"))) <= {"code", "data/dvc.yaml:published"}
    assert stale(folder) == set()


def wait_for_queue(folder: Path) -> None:
    """Until no experiment is queued or running; one that failed fails the test."""
    deadline = time.monotonic() + 400
    while True:
        time.sleep(2)
        assert time.monotonic() < deadline, "the experiments did not end"
        command = ["dvc", "queue", "status"]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
        if done.returncode:  # it reads a file that a worker is writing: dvc 3.67.1 now and then ends with a JSON error
            continue
        assert "Failed" not in done.stdout, done.stdout
        if "Running" not in done.stdout and "Queued" not in done.stdout:
            return


@pytest.mark.slow
def test_two_processes_that_need_the_same_training_train_it_once(project: Path, tmp_path: Path) -> None:
    """One trains, the other waits, says so, and publishes the same."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(project, folder, symlinks=True)
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["cluster"]["storage"] = str(tmp_path / "scratch")
        params["runs"]["dcgan"]["seed"] = 7
        write_params(folder, params)
    command = [sys.executable, "-m", "pipeline.stages.train", "dcgan"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment()}
    processes = [subprocess.Popen(command, cwd=folder, **options) for folder in folders]  # type: ignore[call-overload]
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    waited = ["another process is training this very run" in output for output in outputs]
    published = ["this very training is finished" in output for output in outputs]
    assert sorted(waited) == [False, True] and published == waited, outputs
    weights = [(folder / "out/runs/dcgan/weights.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


SCORE = "fid_efficientnet_lite0"


def agreed(folder: Path, samples: int) -> dict[str, Any]:
    """MLflow's one run of each published one, after checking that it says what the files say."""
    client, found = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), {}
    for path in sorted((folder / "out/runs").glob("*/metrics.json")):
        name = path.parent.name
        trained, scores, protocol = (
            json.loads((path.parent / f"{file}.json").read_text()) for file in ("train", "metrics", "protocol")
        )
        (run,) = client.search_runs(["1"], f"tags.`genloom.key` = '{trained['key']}'")
        if "seeds" in RUNS[name]:
            scores, protocol = of_seed(protocol, trained["params"]["seed"])
        assert {key: run.data.metrics[key] for key in scores} == scores, name
        assert {key: json.loads(run.data.tags[f"protocol.{key}"]) for key in scores} == protocol, name
        assert protocol[SCORE]["generated"]["count"] == samples
        kept = client.download_artifacts(run.info.run_id, f"evaluations/{run.data.tags['evaluation']}.json")
        assert json.loads(Path(kept).read_text()) == {"metrics": scores, "protocol": protocol}
        found[name] = run
    assert set(found) == set(RUNS)
    return found


@pytest.mark.slow
def test_mlflow_agrees_after_dvc_restored_an_evaluation(project: Path) -> None:
    """64 samples, then 80, then 64 again: the third evaluation comes from DVC's run cache, and no stage makes it."""
    before, ran = agreed(project, 64), []
    for samples in (80, 64):
        with edits(project, with_params(project, {"evaluate": {"samples": samples}})):
            ran.append(stages_that_ran(call(project, "dvc", "repro")))
            for name, run in agreed(project, samples).items():
                assert (run.info.run_id, run.info.status) == (before[name].info.run_id, "FINISHED")
                assert run.info.end_time == before[name].info.end_time, "an evaluation moved the training's end"
    assert "evaluate@vae" in ran[0] and ran[1] == ["code", "report"], ran  # code checks params


@pytest.mark.slow
def test_one_command_makes_mlflow_agree_after_a_pull_a_checkout_and_an_apply(shared: Path, tmp_path: Path) -> None:
    folder, sync = tmp_path / "pulled", (sys.executable, "-m", "pipeline", "sync")
    call(shared, "git", "clone", "-q", str(shared), str(folder))
    call(folder, "dvc", "pull", "-q")
    call(folder, *sync)
    made = agreed(folder, 64)
    assert {run.data.tags["genloom.made_from"] for run in made.values()} == {"published files"}
    call(folder, "dvc", "exp", "run", "-q", "-n", "more", "-S", "evaluate.samples=80")
    agreed(folder, 80)
    call(folder, "git", "checkout", "-q", "-f")
    call(folder, "dvc", "checkout", "-q")
    call(folder, *sync)
    agreed(folder, 64)
    call(folder, "dvc", "exp", "apply", "-q", "more")
    call(folder, *sync)
    runs = agreed(folder, 80)
    assert {name: run.info.run_id for name, run in runs.items()} == {
        name: run.info.run_id for name, run in made.items()
    }
    trainings = sum(len(run.get("seeds", [0])) for run in RUNS.values())
    assert f"0 runs sent, {trainings} were complete already" in call(folder, *sync)
