"""images/s of 1 to 4 Ray workers on as many nodes of one thread each, against one process without Ray.

    python bench/nodes.py [--images 20000] [--width 64] [--workers 1 2 3 4]

As root: the nodes are network namespaces of this machine (tests/namespaces.py), so that what the workers say to each
other crosses a (fast) network, but they share its cores: beyond their number nothing can be gained. One training after
the other, on the digits at 16 pixels, with a global batch of 48; the median over the log windows.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chaos import RUN, Training
from namespaces import Namespaces, reason_not


def main(images: int, width: int, workers: list[int]) -> None:
    if why := reason_not():
        sys.exit(f"error: {why}")
    run = {"batch_size": 48, "width": width, "log_every": 960, "checkpoint_every": images, "snapshot_every": images}
    os.environ["OMP_NUM_THREADS"] = "1"  # of the process without Ray too
    alone = 0.0
    with tempfile.TemporaryDirectory() as folder, Namespaces(1 + max(workers)) as nodes:
        for number in (0, *workers):
            training = Training(Path(folder, str(number)), nodes, images, run, workers=number)
            training.finish()
            speed = statistics.median(speed for _, speed in training.speeds()[2:])
            alone = alone or speed
            print(f"{RUN}, {number} workers: {speed:.0f} images/s, {speed / alone:.2f} of one process", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3, 4])
    main(**vars(parser.parse_args()))
