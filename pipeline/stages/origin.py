"""Where the source of params.yaml gets its files from: apart from common.py, since most stages need no image reader."""

from pipeline.config import Params
from pipeline.files import project_root
from pipeline.ingest import sources
from pipeline.ingest.source import Origin, Report, silent
from pipeline.stages.common import scratch


def origin_of(params: Params, report: Report = silent) -> Origin:
    """Return where the source of params.yaml gets its files from; relative paths count from the project's folder.

    That is so in a temporary workspace of DVC's too, which has none of the files that Git does not hold.
    """
    return sources.origin_of(params.data, project_root(), scratch(params), report)
