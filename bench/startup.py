"""How long a command takes before it works: imports, --help of each stage, and a `dvc repro` with nothing to do.

    python bench/startup.py [--runs 5]

Run it after `make repro`. Each line: median, lowest and highest wall seconds of whole processes.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

STAGES = sorted(path.stem for path in Path("pipeline/stages").glob("*.py") if path.stem[0] != "_")
COMMANDS = [
    [sys.executable, "-c", "import pipeline"],
    *(
        [sys.executable, "-m", f"pipeline.stages.{stage}", "--help"]
        for stage in STAGES
        if stage not in ("common", "entry", "paths")
    ),
    [sys.executable, "-m", "pipeline", "--help"],
    [str(Path(sys.executable).parent / "dvc"), "repro"],
]


def main(runs: int) -> None:
    for command in COMMANDS:
        times = []
        for _ in range(runs):
            begin = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.monotonic() - begin)
        shown = " ".join([Path(command[0]).name, *command[1:]])
        print(f"{shown:60} median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    main(**vars(parser.parse_args()))
