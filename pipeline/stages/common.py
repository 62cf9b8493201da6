"""What the stages of a run share: the folder of all journals, trainings and unfinished downloads."""

from pathlib import Path

from pipeline.config import Params
from pipeline.files import project_root


def scratch(params: Params) -> Path:
    """Return the folder of all journals, trainings and unfinished downloads."""
    return project_root() / params.cluster.scratch
