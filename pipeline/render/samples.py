"""The pictures of a run: a grid of its samples, its method's own panels, and a grid of real images to compare with."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.config import Render
from pipeline.core.batch import Batch
from pipeline.data.dataset import Dataset, Split, domains, open_dataset
from pipeline.files import atomic_folder
from pipeline.inference.diagnosis import NotFiniteError
from pipeline.inference.generate import batches, load_fitting, samples, samples_as_they_are, shuffled
from pipeline.inference.weights import Trained
from pipeline.render.curves import read_history, write_curves
from pipeline.render.explorer import write_explorer
from pipeline.render.film import write_film
from pipeline.render.grid import class_columns, grid, panel, write_png

logger = logging.getLogger(__name__)

PANEL_IMAGES = 16
REAL_ROWS, REAL_COLUMNS = 5, 10


def render(folder: Path, data: Path, settings: Render, classes: Sequence[str] | None, at_a_time: int) -> int:
    """Draw a run's pictures into its folder, as ``write_pictures`` does, and what its explorer needs.

    Args:
        folder: the run's, with its weights, history.csv and snapshots.
        data: the folder of the dataset that it was trained on.
        settings: size of the grid, seed, truncation and the film's pace.
        classes: the two domains of a run that translates, else None.
        at_a_time: images that a process of its training took at once, and the nets take here at most.

    Returns:
        Images seen in its training.
    """
    dataset = open_dataset(data)
    trained = load_fitting(folder / "weights.safetensors", dataset.spec)
    write_pictures(folder, trained, *domains(dataset, classes), settings, at_a_time)
    write_explorer(folder / "explorer", trained, settings, at_a_time)
    return trained.seen


def write_real_picture(path: Path, data: Path, split: str, seed: int) -> None:
    """Draw real images of a dataset's split as a PNG, one class per column where there are classes."""
    write_png(path, real_grid(open_dataset(data), split, seed))


def write_pictures(
    folder: Path, trained: Trained, first: Dataset, second: Dataset | None, settings: Render, at_a_time: int
) -> None:
    """Write samples.png and the folder panels: film.webp, curves.png and the method's own panels.

    Args:
        folder: the run's, with its history.csv and snapshots.
        trained: the method and its weights.
        first: the images that the run was trained on.
        second: its second domain, if it has one.
        settings: size of the grid, seed, truncation and the film's pace.
        at_a_time: images that the nets take at once.

    Raises:
        UserError: the history is damaged.
    """
    snapshots = list((folder / "snapshots").glob("*.png"))
    write_png(folder / "samples.png", sample_grid(trained, first, settings, at_a_time))
    with atomic_folder(folder / "panels") as panels:
        write_curves(read_history(folder / "history.csv"), panels / "curves.png")
        if snapshots:
            write_film(snapshots, panels / "film.webp", settings.milliseconds_per_frame)
        for key, picture in own_panels(trained, first, second, settings).items():
            write_png(panels / f"{key}.png", picture)


def sample_grid(trained: Trained, dataset: Dataset, settings: Render, at_a_time: int) -> Image:
    """Draw rows x columns samples, one class per column where the method takes labels.

    Where the evaluation would refuse them because they are not finite, they are drawn as they are: pictures of a run in
    trouble are worth more than none.
    """
    split = dataset.splits["train"]
    chosen = _choose(split, dataset.spec.classes, settings.rows, settings.columns, settings.seed)

    def like() -> Iterator[Batch]:
        return batches(split, chosen, batch_size=at_a_time, **_plan(settings))

    try:
        drawn = list(samples(trained, like()))
    except NotFiniteError as error:
        logger.warning("%s They are drawn as they are, black where they are no numbers.", error)
        drawn = list(samples_as_they_are(trained, like()))
    return grid(torch.cat(drawn), settings.columns)


def own_panels(trained: Trained, dataset: Dataset, second: Dataset | None, settings: Render) -> dict[str, Image]:
    """Draw the method's own pictures, by name, from test images, which training has not seen."""
    split, other = dataset.splits["test"], second.splits["test"] if second else None
    chosen = _choose(split, dataset.spec.classes, 1, PANEL_IMAGES, settings.seed)
    batch = next(batches(split, chosen, other=other, batch_size=PANEL_IMAGES, **_plan(settings)))
    with torch.inference_mode():
        found = trained.method.panels(trained.nets, batch)
    return {key: panel(images) for key, images in found.items()}


def real_grid(dataset: Dataset, split: str, seed: int) -> Image:
    """Draw real images of a split in a seeded order, one class per column where there are classes."""
    images = dataset.splits[split]
    chosen = _choose(images, dataset.spec.classes, REAL_ROWS, REAL_COLUMNS, seed)
    return grid(images.images(chosen.numpy()), REAL_COLUMNS)


def _plan(settings: Render) -> dict[str, Any]:
    return {"seed": settings.seed, "truncation": settings.truncation, "device": "cpu"}


def _choose(split: Split, classes: int, rows: int, columns: int, seed: int) -> Tensor:
    """Return (rows * columns,) rows of the split: images of one class per column where there are several."""
    order = shuffled(len(split), len(split), seed)
    return class_columns(torch.from_numpy(split.labels), order, rows=rows, columns=columns, classes=classes)
