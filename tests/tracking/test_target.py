"""Where MLflow is, and what a run says of the code that made it."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.tracking.tags import code_tags
from pipeline.tracking.target import Target, reason, redacted, resolve

ROOT = Path(__file__).parents[2]


def test_a_relative_database_lies_in_the_project_even_from_a_temporary_workspace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(Tracking()).uri == f"sqlite:///{project}/mlflow.db"
    workspace = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert resolve(Tracking()).uri == f"sqlite:///{project}/mlflow.db"
    assert resolve(Tracking(uri="sqlite:////data/x.db")).uri == "sqlite:////data/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert resolve(Tracking()).uri == "http://elsewhere:5000"


def test_a_wrong_address_is_said_without_its_password(project: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: tracking\.uri") as caught:
        resolve(Tracking(uri="ftp://me:hunter2@host/x"))
    assert "hunter2" not in str(caught.value)
    assert redacted("a http://me:hunter2@host/x b") == "a http://***@host/x b"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("foo", "begins with one of"),
        ("./mlruns", "begins with one of"),
        ("file:///tmp/mlruns", "begins with one of"),
        ("localhost:5000", "begins with one of"),
        ("oracle://host/db", "begins with one of"),
        ("sqlite", "three slashes"),
        ("sqlite:mlflow.db", "three slashes"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///out", "is a folder"),
        ("http", "lacks the server's name"),
        ("http://", "lacks the server's name"),
        ("http:/localhost:5000", "lacks the server's name"),
        ("http://localhost:five", "port"),
        ("http://localhost:99999", "port"),
        ("http://me:hunter2@local host", "space"),
        ("postgresql", "SQLAlchemy"),
        ("postgresql+nothing://me:hunter2@host/db", "postgresql.nothing"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_what_to_write(project: Path, uri: str, why: str) -> None:
    (project / "out").mkdir()
    with pytest.raises(UserError, match=r"^params\.yaml: tracking\.uri: MLflow cannot write to") as caught:
        resolve(Tracking(uri=uri))
    assert why in str(caught.value) and "hunter2" not in str(caught.value)
    assert "Use for example sqlite:///mlflow.db or http://localhost:5000." in str(caught.value)
    assert [path.name for path in project.iterdir()] == ["out"], "nothing is made"


def test_an_address_that_can_be_is_taken(project: Path) -> None:
    for uri in ("http://host", "https://me:pw@host/prefix", "http://[::1]:5000", "databricks", "databricks://profile"):
        assert resolve(Tracking(uri=uri)).uri == uri
    assert (
        resolve(Tracking(uri="sqlite+pysqlite:///x.db?timeout=9")).uri == f"sqlite+pysqlite:///{project}/x.db?timeout=9"
    )
    with pytest.raises(UserError, match=r"tracking\.experiment"):
        resolve(Tracking(experiment=" "))


def test_a_failed_connection_is_a_few_words(project: Path) -> None:
    import requests

    with pytest.raises(requests.ConnectionError) as caught:
        requests.get("http://127.0.0.1:9/api", timeout=2)
    assert reason(caught.value) == "connection refused"
    outer = RuntimeError(f"API request failed with exception {caught.value}")
    outer.__context__ = caught.value
    assert reason(outer) == "connection refused"
    assert reason(requests.ReadTimeout("x")) == "no answer in time"
    other = "API request to endpoint /api/2.0/mlflow failed with error code 403 != 200. Response body: ''"
    assert reason(RuntimeError(other)) == "what answers there is no MLflow, or refuses: error 403 for /api/2.0/mlflow"
    long = reason(ValueError("word " * 200))
    assert len(long) <= 300 and long.endswith(" ...")


def test_a_page_of_a_server_is_its_address_without_the_password(project: Path) -> None:
    for uri in ("http://me:hunter2@host:5000", "http://host:5000/"):
        assert Target(uri, "genloom").page("abc") == "http://host:5000/#/runs/abc"
    assert (
        Target("postgresql://me:hunter2@host/db", "genloom").page("abc").startswith("http://127.0.0.1:5000/#/runs/abc")
    )


def test_importing_tracking_imports_neither_mlflow_nor_torch() -> None:
    modules = (
        ", ".join(f"pipeline.tracking.{path.stem}" for path in (ROOT / "pipeline/tracking").glob("*.py"))
        + ", pipeline.__main__"
    )
    code = f"import sys, {modules}; print({{'mlflow', 'torch'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_code_tags_tell_the_commit_and_whether_the_tree_differs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "git.commit" not in code_tags()
    (project / "a").write_text("1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    (project / "dvc.lock").write_text("written by DVC while a stage runs")
    monkeypatch.setenv("DVC_STAGE", "train@dcgan")
    tags = code_tags()
    assert len(tags["git.commit"]) == 40
    assert tags["git.commit"] == tags["mlflow.source.git.commit"]
    assert (tags["git.dirty"], tags["dvc.stage"]) == ("false", "train@dcgan")
    assert {"version.python", "version.torch", "version.mlflow", "version.ray", "version.dvc"} <= set(tags)
    (project / "a").write_text("2")
    assert code_tags()["git.dirty"] == "true"
