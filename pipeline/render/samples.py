"""The pictures of a run: a grid of its samples, those that are chosen, and a grid of real images to compare with."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.config.pictures import Render
from pipeline.core.batch import Batch, ImageSpec
from pipeline.data.dataset import Dataset, Split, domains, open_dataset
from pipeline.files import atomic_folder
from pipeline.inference.diagnosis import NotFiniteError
from pipeline.inference.generate import batches, drawn_beside, load_fitting, samples, samples_as_they_are, shuffled
from pipeline.inference.published import read_seeds, training_of
from pipeline.inference.weights import Trained
from pipeline.render import pictures
from pipeline.render.curves import read_history
from pipeline.render.drawn import write_drawn
from pipeline.render.explorer import write_explorer
from pipeline.render.grid import class_columns, grid, write_png
from pipeline.render.picture import Subject
from pipeline.render.shown import write_list

logger = logging.getLogger(__name__)

REAL_ROWS, REAL_COLUMNS = 5, 10


def render(folder: Path, data: Path, settings: Render, classes: Sequence[str] | None, at_a_time: int) -> int:
    """Draw a run's pictures into its folder, as ``write_pictures`` does, and what its explorer needs.

    Args:
        folder: the run's, with its weights, history.csv and snapshots.
        data: the folder of the dataset that it was trained on.
        settings: which pictures, the size of the grid, seed, truncation and the film's pace.
        classes: the two domains of a run that translates, else None.
        at_a_time: images that a process of its training took at once, and the nets take here at most.

    Returns:
        Images seen in its training.
    """
    dataset = open_dataset(data)
    trained = load_fitting(folder / "weights.safetensors", dataset.spec)
    first, second = domains(dataset, classes, trained.method.views)
    subject = Subject(
        trained=trained,
        data=first,
        other=second,
        settings=settings,
        at_a_time=at_a_time,
        history=read_history(folder / "history.csv"),
        snapshots=list((folder / "snapshots").glob("*.png")),
        seeds=_load_seeds(folder, dataset.spec),
    )
    write_pictures(folder, subject)
    write_explorer(folder / "explorer", subject)
    return trained.seen


def _load_seeds(folder: Path, spec: ImageSpec) -> dict[int, Trained]:
    """Return the trained method of each of a run's seeds; nothing where there is one."""
    seeds = read_seeds(folder)
    places = {seed: training_of(folder, seed, seeds) for seed in seeds} if len(seeds) > 1 else {}
    return {seed: load_fitting(place / "weights.safetensors", spec) for seed, place in places.items()}


def write_real_picture(path: Path, data: Path, split: str, seed: int) -> None:
    """Draw real images of a dataset's split as a PNG, one class per column where there are classes."""
    write_png(path, real_grid(open_dataset(data), split, seed))


def write_pictures(folder: Path, subject: Subject) -> None:
    """Write samples.png and, into the folder panels, the pictures that the settings choose and the run has.

    Args:
        folder: the run's.
        subject: what is drawn of.
    """
    grid_of_samples = sample_grid(subject.trained, subject.data, subject.settings, subject.at_a_time)
    write_png(folder / "samples.png", grid_of_samples)
    shown = []
    with atomic_folder(folder / "panels") as panels:
        for name in subject.settings.pictures:
            picture = pictures.load(name)
            if picture.needs <= subject.offers and (drawn := picture.draw(subject)) is not None:
                shown.append(write_drawn(panels, name, drawn, picture.title, picture.caption))
        write_list(panels, shown)


def sample_grid(trained: Trained, dataset: Dataset, settings: Render, at_a_time: int) -> Image:
    """Draw rows x columns samples, one class per column where the method takes labels.

    Where the evaluation would refuse them because they are not finite, they are drawn as they are: pictures of a run in
    trouble are worth more than none.
    """
    split = dataset.splits[drawn_beside(trained.method, "train")]
    chosen = _choose(split, dataset.spec.classes, settings.rows, settings.columns, settings.seed)

    def like() -> Iterator[Batch]:
        return batches(split, chosen, batch_size=at_a_time, **_plan(settings))

    try:
        drawn = list(samples(trained, like()))
    except NotFiniteError as error:
        logger.warning("%s They are drawn as they are, black where they are no numbers.", error)
        drawn = list(samples_as_they_are(trained, like()))
    return grid(torch.cat(drawn), settings.columns)


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
