"""What made a run, as MLflow's tags: the commit, DVC's stage and experiment, the versions of the main packages."""

import getpass
import importlib.metadata
import os
import platform
import subprocess

_DVC_VARIABLES = ("STAGE", "EXP_NAME", "EXP_BASELINE_REV")
_PACKAGES = ("genloom", "torch", "ray", "mlflow", "dvc")
_GIT_SECONDS = 30


def code_tags() -> dict[str, str]:
    """Return the tags of a run that starts now; what is unknown (no Git, no DVC) is left out."""
    commit = _git("rev-parse", "HEAD")
    # dvc.lock is DVC's own output: it changes while `dvc repro` runs.
    dirty = str(bool(_git("status", "--porcelain", "--", ".", ":!dvc.lock"))).lower() if commit else ""
    tags = {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}
    tags |= {f"dvc.{name.lower()}": os.environ.get(f"DVC_{name}", "") for name in _DVC_VARIABLES}
    tags |= {f"version.{name}": version(name) for name in _PACKAGES} | {"version.python": platform.python_version()}
    tags |= {"mlflow.source.name": "genloom", "mlflow.source.type": "LOCAL", "mlflow.user": getpass.getuser()}
    return {name: value for name, value in tags.items() if value}


def version(package: str) -> str:
    """Return the installed version of a package, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
