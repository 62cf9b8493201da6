"""Stage `reference`: features of the real images, once per dataset and extractor, reused by every run and metric."""

import typer

from pipeline.config import read_params
from pipeline.errors import run
from pipeline.stages.paths import DATA, REFERENCE


def main() -> None:
    """Write what every extractor of params.yaml sees in the real images to out/reference, and a picture of some."""
    from pipeline.core.world import default_device
    from pipeline.data.dataset import open_dataset
    from pipeline.evaluate import extractors
    from pipeline.evaluate.extraction import write_reference
    from pipeline.files import atomic_folder
    from pipeline.render.grid import write_png
    from pipeline.render.samples import real_grid

    settings, dataset = read_params().evaluate, open_dataset(DATA)
    with atomic_folder(REFERENCE) as folder:
        write_reference(folder, dataset, settings, extractors.load_all(settings, default_device()))
        write_png(folder / "real.png", real_grid(dataset, settings.split, settings.seed))


if __name__ == "__main__":
    run(typer.run, main)
