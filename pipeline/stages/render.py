"""Stage `render`, per run: pictures of what was learnt and how."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.config import Render, read_params, read_run
from pipeline.errors import UserError, run
from pipeline.stages.common import reopen
from pipeline.stages.paths import DATA, run_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipeline.data.dataset import Dataset, Split
    from pipeline.inference.weights import Trained

PANEL_IMAGES = 16


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Draws samples.png and, in panels/, the film of training, the loss curves and the method's own panels;
    all of them go to the run's journal too."""
    from pipeline.data.dataset import domains, open_dataset
    from pipeline.files import atomic_folder
    from pipeline.inference.weights import load_weights
    from pipeline.render.curves import read_history, write_curves
    from pipeline.render.film import write_film
    from pipeline.render.grid import write_png

    params, dataset, folder = read_params(), open_dataset(DATA), run_folder(name)
    settings = params.render
    trained = load_weights(folder / "weights.safetensors")
    if trained.spec != dataset.spec:
        raise UserError(f"{folder}: trained on {trained.spec}, but out/data has {dataset.spec}. Run `dvc repro`.")
    first, second = domains(dataset, read_run(params, name)[0].domains)
    snapshots = list((folder / "snapshots").glob("*.png"))
    write_png(folder / "samples.png", sample_grid(trained, first, settings))
    with atomic_folder(folder / "panels") as panels:
        write_curves(read_history(folder / "history.csv"), panels / "curves.png")
        if snapshots:
            write_film(snapshots, panels / "film.webp", settings.milliseconds_per_frame)
        for key, picture in own_panels(trained, first, second, settings).items():
            write_png(panels / f"{key}.png", picture)
    with reopen(name) as journal:
        journal.image("final_samples", folder / "samples.png", step=trained.seen)
        journal.artifact(folder / "samples.png", "pictures")
        for file in sorted((folder / "panels").iterdir()):
            journal.artifact(file, "pictures")


def sample_grid(trained: "Trained", dataset: "Dataset", settings: Render) -> "Image":
    """rows x columns samples, one class per column where the method takes labels."""
    import torch

    from pipeline.inference.generate import batches, samples
    from pipeline.render.grid import grid

    chosen = _class_columns(
        dataset.splits["train"], dataset.spec.classes, settings.rows, settings.columns, settings.seed
    )
    plan: dict[str, Any] = {"seed": settings.seed, "batch_size": len(chosen), "truncation": settings.truncation}
    like = next(batches(dataset.splits["train"], chosen, device="cpu", **plan))
    return grid(torch.cat(list(samples(trained, iter([like])))), settings.columns)


def own_panels(
    trained: "Trained", dataset: "Dataset", second: "Dataset | None", settings: Render
) -> dict[str, "Image"]:
    """The method's pictures, from test images, which training has not seen."""
    import torch

    from pipeline.inference.generate import batches
    from pipeline.render.grid import panel

    split, other = dataset.splits["test"], second.splits["test"] if second else None
    chosen = _class_columns(split, dataset.spec.classes, 1, PANEL_IMAGES, settings.seed)
    plan: dict[str, Any] = {"seed": settings.seed, "batch_size": len(chosen), "truncation": settings.truncation}
    batch = next(batches(split, chosen, device="cpu", other=other, **plan))
    with torch.inference_mode():
        found = trained.method.panels(trained.nets, batch)
    return {key: panel(images) for key, images in found.items()}


def _class_columns(split: "Split", classes: int, rows: int, columns: int, seed: int) -> "Tensor":
    """(rows * columns,): images of one class per column where there are several."""
    import torch

    from pipeline.inference.generate import shuffled
    from pipeline.render.grid import class_columns

    order = shuffled(len(split), len(split), seed)
    labels = torch.from_numpy(split.labels)
    return class_columns(labels, order, rows=rows, columns=columns, classes=classes)


if __name__ == "__main__":
    run(typer.run, main)
