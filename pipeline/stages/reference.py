"""Stage `reference`: features of the real images, once per dataset and extractor, reused by every run and metric."""

from pipeline.config import read_params
from pipeline.stages.common import enough_memory
from pipeline.stages.entry import PICTURES, TORCH, run_stage
from pipeline.stages.paths import DATA, EXTRACTORS, REFERENCE


def main() -> None:
    """Write what every extractor of params.yaml sees in the real images to out/reference, and a picture of some."""
    from pipeline.cluster.spread import spread
    from pipeline.evaluate.chunks import Materials
    from pipeline.evaluate.extraction import make_reference
    from pipeline.files import atomic_folder
    from pipeline.render.samples import write_real_picture

    params = read_params()
    settings = params.evaluate
    materials = Materials(data=DATA, prepared=EXTRACTORS, settings=settings)
    with atomic_folder(REFERENCE) as folder, enough_memory("reference"):
        make_reference(folder, materials, spread(params.cluster, "reference"))
        write_real_picture(folder / "real.png", DATA, settings.split, settings.seed)


if __name__ == "__main__":
    run_stage(main, *TORCH, *PICTURES, nets=True)
