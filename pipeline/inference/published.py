"""Where a run's trainings lie: one in out/runs/<run>; of several seeds, those after the first in its seeds/<seed>.

What a run shows of one training alone (weights to begin from, samples, curves, the explorer) is of the first seed.
Without torch, as whatever tracks runs asks too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import write_json

SEEDS = "seeds"
INDEX = "seeds.json"


def training_of(run: Path, seed: int, seeds: Sequence[int]) -> Path:
    """Return the folder of a run's training, or of what is kept of it in a folder that is laid out alike.

    Args:
        run: the run's folder, such as out/runs/dcgan, or out/runs/dcgan/features.
        seed: of the training.
        seeds: of all of them, the first one's in the folder itself.

    Returns:
        The folder, which need not exist.
    """
    return run if seed == seeds[0] else run / SEEDS / str(seed)


def write_seeds(run: Path, seeds: Sequence[int]) -> None:
    """Say of which seeds a run's trainings are, once they are all there: DVC wants the folder, even of one training."""
    (run / SEEDS).mkdir(parents=True, exist_ok=True)
    write_json(run / SEEDS / INDEX, {"seeds": list(seeds)})


def trainings(run: Path) -> list[Path]:
    """Return the folders of a run's trainings, the first seed's first.

    Args:
        run: the run's folder; one without a list of seeds, such as a published checkpoint's, is of one training.

    Returns:
        The folders.
    """
    seeds = read_seeds(run)
    return [training_of(run, seed, seeds) for seed in seeds] or [run]


def read_seeds(run: Path) -> list[int]:
    """Return of which seeds a run's trainings are; [] of a folder that does not say it."""
    try:
        seeds: list[int] = json.loads((run / SEEDS / INDEX).read_text())["seeds"]
    except (OSError, ValueError, KeyError):
        return []
    return seeds


def run_of(training: Path) -> Path:
    """Return the folder of the run that a training's folder is of."""
    return training.parents[1] if training.parent.name == SEEDS else training
