"""A whole `dvc repro` of the default params against that of an earlier commit: wall time, CPU time, the first step.

    python bench/repro.py [--against 2541601] [--rounds 2] [--workers 1]

Both in fresh clones, with this environment's packages, in turn. CPU seconds are of all processes of this control group
or, where it counts none, of the machine, so leave it alone: of children alone the trainings would be missing, as Ray's
raylet leaves its workers' times to nobody. What Ray and the trackers leave to run on counts too: this process adopts
whatever loses its parent (Linux). The first step is when a training first says how far it is.
"""

import argparse
import ctypes
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
GROUP = Path("/sys/fs/cgroup/cpu.stat")
ADOPT = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
STEP = re.compile(r" of [\d,]+ images, ")
LEFT_SECONDS = 60.0  # for what ends after DVC


def repro(folder: Path) -> dict[str, float]:
    """Run it; seconds until the first step and until the end, and CPU seconds of all its processes."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    before, begin, first = cpu_seconds(), time.monotonic(), 0.0
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not first and STEP.search(line):
            first = time.monotonic() - begin
    if process.wait():
        sys.exit("".join(lines[-20:]))
    wall = time.monotonic() - begin
    with suppress(ChildProcessError):
        while time.monotonic() - begin < wall + LEFT_SECONDS:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.1)
    return {"wall": wall, "cpu": cpu_seconds() - before, "first step": first}


def cpu_seconds() -> float:
    """Return what all processes of this control group have used, or of the machine."""
    if GROUP.is_file():
        return int(dict(line.split() for line in GROUP.read_text().splitlines())["usage_usec"]) / 1e6
    times = psutil.cpu_times()
    return float(sum(times[:3]) + sum(getattr(times, name) for name in ("irq", "softirq")))


def clone(folder: Path, commit: str) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=True)
    return folder


def with_workers(folder: Path, number: int) -> Path:
    params = folder / "params.yaml"
    changed, found = re.subn(r"(?m)^(  workers:) \d+", rf"\g<1> {number}", params.read_text())
    assert found == 1, "cluster.workers stands once in params.yaml"
    params.write_text(changed)
    return folder


def main(args: argparse.Namespace) -> None:
    ctypes.CDLL(None).prctl(ADOPT, 1)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    commits = {"this": head.stdout.strip(), "that": args.against}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commits}
    for number in range(args.rounds):
        for name, commit in list(commits.items())[:: 1 if number % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                copy = clone(Path(folder, "clone"), commit)
                if name == "this" and args.workers is not None:
                    with_workers(copy, args.workers)
                found[name].append(repro(copy))
            shown = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in found[name][-1].items())
            print(f"round {number}, {name}: {shown}", flush=True)
    for what in ("wall", "cpu", "first step"):
        ratios = [this[what] / that[what] for this, that in zip(found["this"], found["that"], strict=True)]
        print(f"{what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of {args.against}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="2541601")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, help="cluster.workers of this commit's; its own params.yaml's otherwise")
    main(parser.parse_args())
