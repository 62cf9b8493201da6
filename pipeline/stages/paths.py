"""Where the stages leave what they make, as dvc.yaml declares it."""

from pathlib import Path

OUT = Path("out")
RAW = OUT / "raw"
DATA = OUT / "data"
IMAGES = OUT / "images"
INSPECTION = OUT / "inspection"
EXTRACTORS = OUT / "extractors"
STATISTICS = OUT / "statistics"
REFERENCE = OUT / "reference"
RUNS = OUT / "runs"
TUNE = OUT / "tune"


def run_folder(name: str) -> Path:
    """Where a run's published files are."""
    return RUNS / name
