"""Trainings at once against one after the other: the default runs of params.yaml, with fewer images.

    python bench/together.py [--rounds 3] [--images 20000]

In a copy of the project, alternating: `genloom train --jobs 2`, with a thread each; `genloom train --jobs 1`, with all
threads; and the stages train one after the other, as `dvc repro` runs them, each with a Ray cluster of its own.
Download and normalization are done before. Prints the seconds of each and the ratios.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
WAYS = {"2": "2 at a time", "1": "1 at a time", "stages": "as `dvc repro` trains"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
        (copy / "dvc.lock").unlink()
        params = yaml.safe_load((copy / "params.yaml").read_text())
        for run in params["runs"].values():
            run["images"] = chosen.images
        params["cluster"]["workers"] = 1  # of the stages; genloom train does without Ray
        (copy / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        call(copy, "-m", "dvc", "repro", "--quiet", "normalize")
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(chosen.rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                shutil.rmtree(copy / ".genloom", ignore_errors=True)
                begun = time.monotonic()
                if way == "stages":
                    for run in params["runs"]:
                        call(copy, "-m", "pipeline.stages.train", run)
                else:
                    call(copy, "-m", "pipeline", "train", "--jobs", way)
                seconds[way].append(time.monotonic() - begun)
                print(f"{WAYS[way]}: {seconds[way][-1]:.1f} s", flush=True)
    print(f"{len(params['runs'])} runs of {chosen.images:,} images on {os.cpu_count()} cores, medians:")
    together, *others = (statistics.median(seconds[way]) for way in WAYS)
    for name, other in zip(list(WAYS.values())[1:], others, strict=True):
        print(f"  2 at a time {together:.1f} s, {name} {other:.1f} s: {together / other:.2f}")


def call(folder: Path, *arguments: str) -> None:
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | path, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
