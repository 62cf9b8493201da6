"""What a search costs besides its training: 20 trials of some seconds each, in a project whose data are there.

    python bench/tune.py [--trials 20] [--images 20000]

Run it in a project after `dvc repro normalize extractors`; it writes to a folder of its own below .genloom. Ratios hold
on a machine that does nothing else.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from pipeline.config import Search, read_params
from pipeline.tune.driver import search_on_ray
from pipeline.tune.record import Record
from pipeline.tune.search import task_of


def main() -> None:
    begin = time.time()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    given = parser.parse_args()
    params, root = read_params(), Path.cwd()
    search = Search(
        space={"lr": {"loguniform": [1e-4, 1e-2]}, "beta": {"uniform": [0.5, 8]}},
        objective="elbo_bits_per_dim",
        searcher="random",
        trials=given.trials,
        trial_images=given.images,
        seed=int(begin),  # other trials than the last time
    )
    scratch = root / ".genloom" / "bench"
    task = task_of("vae", replace(params, search={"vae": search}), root=root, out=Path("out"), scratch=scratch)
    with Record.open(task.folder, "vae") as record:
        search_on_ray(task, record)
        trials = list(record.trials.values())
    end = time.time()
    trained = sum(trial.seconds for trial in trials)
    first = min(trial.times[images] / 1000 - trial.seconds for trial in trials for images in trial.times)
    last = max(trial.ended for trial in trials) / 1000
    concurrent = min(os.cpu_count() or 1, len(trials))  # one CPU each
    print(f"{len(trials)} trials, {trained / len(trials):.2f} s each, {concurrent} at a time")
    print(f"first trains after {first - begin:.1f} s; ends {end - last:.1f} s after the last trial")
    print(f"trials: {(last - first) * concurrent / trained:.2f} of the sum of their times by those at a time")
    print(f"all of it: {(end - begin) * concurrent / trained:.2f}")


if __name__ == "__main__":
    main()
