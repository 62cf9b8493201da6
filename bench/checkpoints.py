"""Seconds to save and to load a checkpoint, by the size of the model.

    python bench/checkpoints.py [--folder .]

A state as training has it: weights, moving average and Adam's two moments, four floats per parameter. The folder's
disk decides; each file is synced and hashed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from pipeline.storage.checkpoint import Checkpoints


def main(folder: Path) -> None:
    for millions in (1, 10, 100, 300):
        content = {
            name: {str(k): torch.randn(1_000_000) for k in range(millions)}
            for name in ("nets", "ema", "first", "second")
        }
        with tempfile.TemporaryDirectory(dir=folder) as place:
            checkpoints = Checkpoints(Path(place), "bench")
            begin = time.perf_counter()
            checkpoints.save(1, content)
            saved = time.perf_counter()
            assert checkpoints.newest() == 1
            checked = time.perf_counter()
            checkpoints.load(1, torch.device("cpu"))
            loaded = time.perf_counter()
            size = sum(file.stat().st_size for file in Path(place).rglob("state.pt")) / 2**20
        print(
            f"{millions:4} M parameters, {size:6.0f} MiB: saved in {saved - begin:5.2f} s "
            f"({size / (saved - begin):4.0f} MiB/s), checked in {checked - saved:5.2f} s, "
            f"read in {loaded - checked:5.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    main(parser.parse_args().folder)
