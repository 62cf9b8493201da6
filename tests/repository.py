"""A copy of the project as a Git repository of its own, and DVC run in it as a user runs it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
# Tiny: a GAN, a VAE, and a run that begins from another and has two seeds.
RUNS = {
    name: {"method": method, "init_from": "scratch", "seed": seed, "width": 8, "latent": 8, "images": images}
    | {"batch_size": 64, "log_every": 128, "snapshot_every": 640, "checkpoint_every": 256}
    for name, method, seed, images in [
        ("dcgan", "dcgan", 0, 12800),
        ("vae", "vae", 0, 1280),
    ]
}
RUNS["tuned"] = RUNS["dcgan"] | {"init_from": "runs/dcgan", "images": 640, "freeze": ["critic.layers.0"]}
RUNS["tuned"] = {name: value for name, value in RUNS["tuned"].items() if name != "seed"} | {"seeds": [0, 3]}


def copy_project(folder: Path, runs: dict[str, Any], workers: int = 0) -> Path:
    """The files that git would commit, with small runs, as a git repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.endswith("dvc.lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["runs"] = {name: {"init_from": "scratch"} | run for name, run in runs.items()}
    params["cluster"]["workers"] = workers
    params["evaluate"] |= {"samples": 64, "reference_samples": 64}
    write_params(folder, params)
    call(folder, "git", "init", "-q")
    commit(folder, "start")
    return folder


def commit(folder: Path, message: str) -> None:
    """All of it, new files too."""
    call(folder, "git", "add", "-A")
    call(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


def write_params(folder: Path, params: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment() -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    dropped = ("MLFLOW_TRACKING_URI", "DVC_STAGE", "DVC_ROOT")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return kept | {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": ""}


def call(folder: Path, *command: str, ok: bool = True) -> str:
    """Runs a command in the project; returns what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540
    )
    assert (done.returncode == 0) == ok, f"{command} exited {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def stages_that_ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed_stages(folder: Path) -> set[str]:
    return set(json.loads(call(folder, "dvc", "status", "--json", "dvc.yaml").splitlines()[-1]))
