"""From a file to what made it and from a run to its files, against a project that DVC itself has run."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import read_params
from pipeline.errors import UserError
from pipeline.tracking.dvc_status import RWLOCK
from pipeline.tracking.journal import Journal
from pipeline.tracking.lineage import lineage
from pipeline.tracking.references import find_page
from pipeline.tracking.sender import sync
from pipeline.tracking.shipped import STATE, last_sent
from pipeline.tracking.tags import code_tags

ROOT = Path(__file__).parents[2]
DATASET = {"source": "digits", "digest": "d" * 64, "channels": 1, "size": 16, "classes": []}
PIPELINE = """
    stages:
      code:
        cmd: mkdir -p out/code && cp code-*.json out/code
        deps: [code.py]
        outs: [out/code]
      normalize:
        cmd: mkdir -p out/data/deep && echo images > out/data/a.npy && echo labels > out/data/deep/b.npy
        params: [data.size]
        outs: [out/data]
      train:
        foreach: ${runs}
        do:
          cmd: mkdir -p out/runs/${key} && echo ${key} ${item.seed} > out/runs/${key}/weights.safetensors
            && cp ${key}.json out/runs/${key}/train.json
          params: ["runs.${key}"]
          deps: [out/data, "out/code/code-${item.method}.json"]
          outs:
            - out/runs/${key}/weights.safetensors
            - out/runs/${key}/train.json
      evaluate:
        foreach: ${runs}
        do:
          cmd: echo '{}' > out/runs/${key}/metrics.json
          deps: ["out/runs/${key}/weights.safetensors"]
          outs: ["out/runs/${key}/metrics.json"]
"""
PARAMS = """
    data: {size: 16}
    runs: {a: {method: dcgan, init_from: scratch, seed: 1}, b: {method: vae, init_from: scratch, seed: 2}}
    evaluate: {extractors: [efficientnet_lite0]}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two runs, made by `dvc repro`, journaled and sent to MLflow."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(textwrap.dedent(PARAMS))
    (folder / "dvc.yaml").write_text(textwrap.dedent(PIPELINE))
    (folder / ".gitignore").write_text(
        "/out/\n/.genloom/\n/mlflow.db*\n/mlartifacts/\n/.dvc/\n/*.json\n/code.py\n/empty.db*\n"
    )
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
            patch.delenv(name)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DVC_NO_ANALYTICS", "true")
        os.chdir(folder)
        git("init", "-q")
        git("add", "params.yaml", "dvc.yaml", ".gitignore")
        git("commit", "-qm", "a project")
        Path("code.py").write_text("pass\n")
        for method in ("dcgan", "vae"):
            Path(f"code-{method}.json").write_text(json.dumps({"digest": method * 8, "files": ["code.py"]}))
        for name in ("a", "b"):
            journaled(name)
        for command in (["init", "-q", "-f"], ["repro", "-q"]):
            subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
        yield folder
        os.chdir(before)


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def journaled(name: str) -> None:
    """A run's journal, and at the top of the project the train.json that its train stage will publish."""
    folder, params = Path(f".genloom/runs/{name}-x"), read_params()
    with Journal.open(folder) as opened:
        opened.start(name=name, key=f"key-{name}", params={"seed": 1}, tags=code_tags(), dataset=DATASET)
        opened.finish("FINISHED")
    sync(folder, params.tracking)
    Path(f"{name}.json").write_text(
        json.dumps({"run": name, "key": f"key-{name}", "params": {}, "dataset": DATASET, "seen": 1})
    )


def run_id(name: str) -> str:
    sent = last_sent(next(folder for folder in (Path(".genloom"), Path("away")) if folder.exists()) / f"runs/{name}-x")
    assert sent is not None
    return sent[0]


def of(what: str) -> dict[str, Any]:
    return lineage(what, read_params())


def test_a_file_leads_to_its_stages_params_data_commit_and_run(project: Path) -> None:
    result = of("out/runs/a/metrics.json")
    assert (result["stage"], result["state"], result["unknown"]) == ("evaluate@a", "as recorded", [])
    assert result["read_by"] == [] and of("out/runs/a/weights.safetensors")["read_by"] == ["evaluate@a"]
    assert of("out/code/code-vae.json")["read_by"] == ["train@b"]
    assert [stage["stage"] for stage in result["chain"]] == ["evaluate@a", "train@a", "code", "normalize"]
    assert result["chain"][1]["params"] == {"runs.a": {"method": "dcgan", "init_from": "scratch", "seed": 1}}
    assert result["chain"][1]["cmd"].startswith("mkdir -p out/runs/a")
    data = result["chain"][1]["deps"]["out/data"]
    assert (data["state"], data["stage"]) == ("as recorded", "normalize")
    assert data["md5"].endswith(".dir")
    code = result["chain"][1]["deps"]["out/code/code-dcgan.json"]
    assert (code["state"], code["stage"], code["code"]) == ("as recorded", "code", "dcgan" * 8)
    assert "code" not in data
    (run,) = result["runs"]
    assert (run["run_id"], run["run"], run["status"]) == (run_id("a"), "a", "FINISHED")
    assert (run["commit"], run["dirty"]) == (git("rev-parse", "HEAD"), "false")
    assert run["dataset"]["digest"] == DATASET["digest"]


def test_data_leads_to_every_run_that_was_made_from_it(project: Path) -> None:
    for path in ("out/data", "out/data/deep/b.npy", str(project / "out/data/a.npy")):
        result = of(path)
        assert (result["stage"], result["state"]) == ("normalize", "as recorded")
        assert {run["run"] for run in result["runs"]} == {"a", "b"}


def test_code_leads_to_the_runs_that_it_decided(project: Path) -> None:
    assert [run["run"] for run in of("out/code/code-vae.json")["runs"]] == ["b"]
    assert [run["run"] for run in of("out/code")["runs"]] == ["a", "b"]
    before = Path("code.py").read_text()
    Path("code.py").write_text("changed = 1\n")
    try:
        chain = {stage["stage"]: stage["deps"] for stage in of("out/runs/a/metrics.json")["chain"]}
    finally:
        Path("code.py").write_text(before)
    assert chain["code"]["code.py"]["state"] == "modified since"
    assert chain["train@a"]["out/code/code-dcgan.json"]["state"] == "as recorded"


def test_a_file_leads_to_the_stages_that_read_it_and_those_that_follow(project: Path) -> None:
    for path, direct, further in [
        ("out/code/code-vae.json", ["train@b"], ["evaluate@b"]),
        ("out/code", ["train@a", "train@b"], ["evaluate@a", "evaluate@b"]),
        ("out/runs/a/weights.safetensors", ["evaluate@a"], []),
        ("out/runs/a/metrics.json", [], []),
    ]:
        result = of(path)
        assert (result["read_by"], result["followed_by"]) == (direct, further), path
    text = genloom("lineage", "out/code/code-vae.json").stdout
    assert "read by: train@b\n" in text and "then: evaluate@b\n" in text


def test_a_run_leads_to_its_files(project: Path) -> None:
    for prefix in (run_id("b"), run_id("b")[:10]):
        result = of(prefix)
        assert (result["run"], result["key"], result["experiment"]) == ("b", "key-b", "genloom")
        assert result["stages"] == ["evaluate@b", "train@b"]
        assert set(result["files"].values()) == {"as recorded"}
        names = ("weights.safetensors", "train.json", "metrics.json")
        assert set(result["files"]) == {f"out/runs/b/{name}" for name in names}


def test_a_changed_file_is_called_changed(project: Path) -> None:
    for path, changed in (("out/runs/a/weights.safetensors", "x\n"), ("out/data/deep/b.npy", "x\n")):
        before = Path(path).read_bytes()
        Path(path).write_text(changed)
        assert of(path)["state"] == "modified since"
        Path(path).unlink()
        assert of(path)["state"] == "missing"
        Path(path).write_bytes(before)
        assert of(path)["state"] == "as recorded"
    assert of("out/runs/b/metrics.json")["chain"][0]["deps"]["out/runs/b/weights.safetensors"]["state"] == "as recorded"


def test_a_stage_that_dvc_does_not_know_any_more_has_unknown_states_and_says_why(project: Path) -> None:
    lock = Path("dvc.lock")
    before = lock.read_text()
    lock.write_text(before.replace("evaluate@a:", "score@a:"))
    try:
        result = of("out/runs/a/metrics.json")
    finally:
        lock.write_text(before)
    assert (result["stage"], result["state"]) == ("score@a", "unknown")
    assert "dvc status` failed" in result["unknown"][0]
    assert "score@a" in result["unknown"][0]
    assert [run["run"] for run in result["runs"]] == ["a"]


def test_dvc_is_left_alone_while_it_runs_a_stage(project: Path) -> None:
    entry = (
        "  wait:\n    cmd: touch begun; while [ ! -e go ]; do sleep 0.1; done; echo 1 > waited\n    outs: [waited]\n"
    )
    before = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(before + entry)
    running = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q", "wait"])
    try:
        deadline = time.monotonic() + 60
        while not Path("begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "waited" in RWLOCK.read_text()
        result = of("out/runs/a/metrics.json")
        Path("go").touch()
        assert running.wait(60) == 0
    finally:
        running.kill()
        Path("dvc.yaml").write_text(before)
        for name in ("begun", "go", "waited"):
            Path(name).unlink(missing_ok=True)
    assert (result["stage"], result["state"]) == ("evaluate@a", "unknown")
    assert f"DVC is at work (process {running.pid})" in result["unknown"][0]
    assert of("out/runs/a/metrics.json")["state"] == "as recorded"


def test_neither_a_file_nor_a_run_is_one_clear_message(project: Path) -> None:
    for wrong in ("out/runs/c/metrics.json", "dvc.yaml", "ffffffff", "zz", run_id("a")[:2]):
        with pytest.raises(UserError, match=wrong):
            of(wrong)


def test_without_a_journal_mlflow_is_asked_and_without_both_the_gap_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".genloom").rename("away")
    try:
        (run,) = of("out/runs/a/weights.safetensors")["runs"]
        assert (run["commit"], run["params"], run["status"]) == (git("rev-parse", "HEAD"), {"seed": "1"}, "FINISHED")
        assert of(run_id("a")[:12])["files"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        result = of("out/runs/a/weights.safetensors")
        assert result["stage"] == "train@a"
        (run,) = result["runs"]
        assert (run["run"], run["key"], run["run_id"], run["commit"]) == ("a", "key-a", None, None)
        assert "can't be reached" in result["unknown"][0]
        with pytest.raises(UserError, match="no run here has this id"):
            of("ffffffff")
    finally:
        Path("away").rename(".genloom")


def test_the_command_prints_for_people_and_for_programs(project: Path) -> None:
    text = genloom("lineage", "out/runs/a/metrics.json")
    assert text.returncode == 0
    for fact in ("evaluate@a", "train@a", "normalize", run_id("a"), git("rev-parse", "HEAD"), "clean", "d" * 64):
        assert fact in text.stdout
    assert json.loads(genloom("lineage", run_id("a")[:8], "--json").stdout)["run"] == "a"
    wrong = genloom("lineage", "nothing.txt")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)
    assert wrong.stderr.startswith("error: nothing.txt: ")


def test_a_run_leads_to_its_page_in_mlflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the journal without asking, without the journal by asking; else a message that says what to do."""
    page, params = f"http://127.0.0.1:5000/#/runs/{run_id('a')} (while `genloom ui` runs)", read_params()
    assert genloom("page", "a").stdout == f"{page}\n"
    Path(".genloom").rename("away")
    try:
        assert find_page("a", params) == page
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="can't be reached"):
            find_page("a", params)
    finally:
        Path("away").rename(".genloom")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///empty.db")
    with pytest.raises(UserError, match=r"does not have this training \(key-a\); `genloom sync` sends it"):
        find_page("a", params)
    with pytest.raises(UserError, match=r"^aa: no training of this run is here\. Did you mean 'a'\?"):
        find_page("aa", params)


def test_a_run_that_is_not_published_yet_has_a_page_by_its_newest_journal(project: Path) -> None:
    published = Path("out/runs/a/train.json")
    published.rename("kept.json")
    try:
        assert find_page("a", read_params()).startswith(f"http://127.0.0.1:5000/#/runs/{run_id('a')}")
    finally:
        Path("kept.json").rename(published)


def test_sync_sends_what_is_missing_and_says_what_it_did(project: Path) -> None:
    assert "0 runs sent, 2 were complete already" in genloom("sync").stdout
    (project / ".genloom/runs/a-x" / STATE).unlink()
    assert "1 runs sent, 1 were complete already" in genloom("sync").stdout
    assert "2 runs sent, 0 were complete already" in genloom("sync", "--all").stdout
    failed = genloom("sync", "--all", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr.count("can't be reached: connection refused") == 1
    assert genloom("sync").returncode == 0


def genloom(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment
    )
