"""Stage `reference`: statistics of the real images, once per dataset and extractor, reused by every run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.config import Evaluate, read_params
from pipeline.errors import UserError, run
from pipeline.stages.paths import DATA, REFERENCE

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.evaluate.extractor import Extractor, Features

PICTURE_ROWS, PICTURE_COLUMNS = 5, 10


def main() -> None:
    """Extracts features of the real images with every extractor of params.yaml and keeps their mean and
    covariance in out/reference, with the protocol, the real images' own scores, and a picture of some."""
    from pipeline.core.world import default_device
    from pipeline.data.dataset import open_dataset
    from pipeline.evaluate import extractors as features
    from pipeline.evaluate.extractor import extract
    from pipeline.evaluate.reference import write_reference
    from pipeline.files import atomic_folder
    from pipeline.inference.generate import shuffled

    settings, dataset = read_params().evaluate, open_dataset(DATA)
    split = dataset.splits[settings.split]
    count = min(len(split), settings.reference_samples or len(split))
    if count < 20:
        raise UserError(f"params.yaml: evaluate.split: '{settings.split}' has {count} images; at least 20 are needed.")
    extractors = [
        features.load(name, weights=settings.weights, device=default_device()) for name in settings.extractors
    ]
    rows = shuffled(len(split), count, settings.seed)
    images = (split.images(part.numpy()) for part in rows.split(settings.batch_size))
    found = extract(extractors, images)
    with atomic_folder(REFERENCE) as folder:
        for extractor in extractors:
            statistics, about = describe(extractor, found[extractor.name], settings, dataset)
            write_reference(folder, extractor.name, statistics, about)
        write_picture(dataset, settings, folder / "real.png")


def describe(
    extractor: "Extractor", found: "Features", settings: Evaluate, dataset: "Dataset"
) -> tuple[Any, dict[str, Any]]:
    """The statistics, and the protocol with the real images' scores beside it.

    The two halves' distance is what a perfect generator would get from as few images: FID's bias, not zero.
    """
    from pipeline.evaluate.metrics.frechet import Statistics, frechet_distance
    from pipeline.evaluate.metrics.inception_score import SPLITS, inception_score

    statistics = Statistics.of(found.pooled)
    halves = [Statistics.of(half) for half in found.pooled.tensor_split(2)]
    mean, deviation = inception_score(found.logits)
    real = {
        f"fid_{extractor.name}_real_halves": frechet_distance(*halves),
        "real_halves_counts": [half.count for half in halves],
        f"is_{extractor.name}": mean,
        f"is_{extractor.name}_std": deviation,
        "is_splits": SPLITS,
    }
    images = {"split": settings.split, "count": statistics.count, "seed": settings.seed, "digest": dataset.digest}
    return statistics, {"protocol": {**extractor.protocol, "reference": images}, "real": real}


def write_picture(dataset: "Dataset", settings: Evaluate, path: Path) -> None:
    """Real images, one class per column where there are classes."""
    import torch

    from pipeline.inference.generate import shuffled
    from pipeline.render.grid import class_columns, grid, write_png

    split = dataset.splits[settings.split]
    chosen = class_columns(
        torch.from_numpy(split.labels),
        shuffled(len(split), len(split), settings.seed),
        rows=PICTURE_ROWS,
        columns=PICTURE_COLUMNS,
        classes=dataset.spec.classes,
    )
    write_png(path, grid(split.images(chosen.numpy()), PICTURE_COLUMNS))


if __name__ == "__main__":
    run(typer.run, main)
