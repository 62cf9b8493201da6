"""The pictures of a run: a grid of its samples, its method's own panels, and a grid of real images to compare with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.config import Render
from pipeline.data.dataset import Dataset, Split, domains, open_dataset
from pipeline.files import atomic_folder
from pipeline.inference.generate import batches, load_fitting, samples, shuffled
from pipeline.inference.weights import Trained
from pipeline.render.curves import read_history, write_curves
from pipeline.render.film import write_film
from pipeline.render.grid import class_columns, grid, panel, write_png

PANEL_IMAGES = 16
REAL_ROWS, REAL_COLUMNS = 5, 10


def render(folder: Path, data: Path, settings: Render, classes: Sequence[str] | None) -> int:
    """Draw a run's pictures into its folder; as ``write_pictures`` does.

    Args:
        folder: the run's, with its weights, history.csv and snapshots.
        data: the folder of the dataset that it was trained on.
        settings: size of the grid, seed, truncation and the film's pace.
        classes: the two domains of a run that translates, else None.

    Returns:
        Images seen in its training.
    """
    dataset = open_dataset(data)
    trained = load_fitting(folder / "weights.safetensors", dataset.spec)
    write_pictures(folder, trained, *domains(dataset, classes), settings)
    return trained.seen


def write_real_picture(path: Path, data: Path, split: str, seed: int) -> None:
    """Draw real images of a dataset's split as a PNG, one class per column where there are classes."""
    write_png(path, real_grid(open_dataset(data), split, seed))


def write_pictures(folder: Path, trained: Trained, first: Dataset, second: Dataset | None, settings: Render) -> None:
    """Write samples.png and the folder panels: film.webp, curves.png and the method's own panels.

    Args:
        folder: the run's, with its history.csv and snapshots.
        trained: the method and its weights.
        first: the images that the run was trained on.
        second: its second domain, if it has one.
        settings: size of the grid, seed, truncation and the film's pace.

    Raises:
        UserError: the history is damaged, or the samples are not finite.
    """
    snapshots = list((folder / "snapshots").glob("*.png"))
    write_png(folder / "samples.png", sample_grid(trained, first, settings))
    with atomic_folder(folder / "panels") as panels:
        write_curves(read_history(folder / "history.csv"), panels / "curves.png")
        if snapshots:
            write_film(snapshots, panels / "film.webp", settings.milliseconds_per_frame)
        for key, picture in own_panels(trained, first, second, settings).items():
            write_png(panels / f"{key}.png", picture)


def sample_grid(trained: Trained, dataset: Dataset, settings: Render) -> Image:
    """Draw rows x columns samples, one class per column where the method takes labels."""
    split = dataset.splits["train"]
    chosen = _choose(split, dataset.spec.classes, settings.rows, settings.columns, settings.seed)
    like = next(batches(split, chosen, **_plan(settings, chosen)))
    return grid(torch.cat(list(samples(trained, iter([like])))), settings.columns)


def own_panels(trained: Trained, dataset: Dataset, second: Dataset | None, settings: Render) -> dict[str, Image]:
    """Draw the method's own pictures, by name, from test images, which training has not seen."""
    split, other = dataset.splits["test"], second.splits["test"] if second else None
    chosen = _choose(split, dataset.spec.classes, 1, PANEL_IMAGES, settings.seed)
    batch = next(batches(split, chosen, other=other, **_plan(settings, chosen)))
    with torch.inference_mode():
        found = trained.method.panels(trained.nets, batch)
    return {key: panel(images) for key, images in found.items()}


def real_grid(dataset: Dataset, split: str, seed: int) -> Image:
    """Draw real images of a split in a seeded order, one class per column where there are classes."""
    images = dataset.splits[split]
    chosen = _choose(images, dataset.spec.classes, REAL_ROWS, REAL_COLUMNS, seed)
    return grid(images.images(chosen.numpy()), REAL_COLUMNS)


def _plan(settings: Render, chosen: Tensor) -> dict[str, Any]:
    whole = {"batch_size": len(chosen), "device": "cpu"}
    return whole | {"seed": settings.seed, "truncation": settings.truncation}


def _choose(split: Split, classes: int, rows: int, columns: int, seed: int) -> Tensor:
    """Return (rows * columns,) rows of the split: images of one class per column where there are several."""
    order = shuffled(len(split), len(split), seed)
    return class_columns(torch.from_numpy(split.labels), order, rows=rows, columns=columns, classes=classes)
