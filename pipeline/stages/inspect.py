"""Stage inspect: a page that shows the images, what is there twice, and what was left out."""

import logging

from pipeline.console import progress
from pipeline.stages.entry import PICTURES, TORCH, run_stage
from pipeline.stages.paths import DATA, IMAGES, INSPECTION

logger = logging.getLogger("pipeline.stages.inspect")  # __name__ is "__main__" in a script


def main() -> None:
    """Write out/inspection: the page data.html, and duplicates.csv."""
    from pipeline.render.inspection import PAGE, inspect

    with progress() as report:
        said = inspect(DATA, IMAGES, INSPECTION, report)
    for warning in said["warnings"]:
        logger.warning("%s See %s.", warning, INSPECTION / PAGE)


if __name__ == "__main__":
    run_stage(main, *TORCH, *PICTURES)
