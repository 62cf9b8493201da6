"""Stage `extractors`: what extractors need besides their code: a network that learns the data's classes, the hashes of
people's own programs, statistics of others."""

from pipeline.config import read_params
from pipeline.stages.entry import TORCH, run_stage
from pipeline.stages.paths import DATA, EXTRACTORS, STATISTICS


def main() -> None:
    """Write what evaluate.extractors needs to out/extractors, and evaluate.statistics, checked, to out/statistics."""
    from pipeline.evaluate.extraction import prepare_extractors, prepare_statistics
    from pipeline.files import atomic_folder

    settings = read_params().evaluate
    with atomic_folder(STATISTICS) as folder:
        prepare_statistics(folder, settings)
    with atomic_folder(EXTRACTORS) as folder:
        prepare_extractors(folder, DATA, settings)


if __name__ == "__main__":
    run_stage(main, *TORCH, nets=True)
