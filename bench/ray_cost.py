"""What Ray Train costs: a training with one Ray worker and the same training without Ray, in turn (turns.py).

    python bench/ray_cost.py [--threads 1] [--turns 12] [--seconds 6] [--width 64] [--size 32]

Without --threads both train on all of the machine's cores, so that Ray's own processes have none for themselves.
The start of a Ray cluster, which does not grow with the run, is not in it.
"""

import argparse

from turns import Training, ratios, take_turns


def main(threads: int | None, turns: int, seconds: float, width: int, size: int) -> None:
    trainings = {
        name: Training(workers=workers, threads=threads, width=width, size=size)
        for name, workers in (("without Ray", 0), ("one Ray worker", 1))
    }
    print(ratios(take_turns(trainings, turns, seconds), "one Ray worker", "without Ray"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=6)
    for option, default in [("turns", 12), ("width", 64), ("size", 32)]:
        parser.add_argument(f"--{option}", type=int, default=default)
    main(**vars(parser.parse_args()))
