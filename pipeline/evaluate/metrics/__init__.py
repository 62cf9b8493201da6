"""One metric per file; the file name is what params.yaml: evaluate.metrics names."""

from pipeline import registry
from pipeline.evaluate.metric import Metric


def names() -> list[str]:
    """List every metric: the files of this folder."""
    return registry.names(__name__)


def load(name: str) -> Metric:
    """Return the metric that the file of that name defines.

    Args:
        name: the file's name.

    Returns:
        Its ``METRIC``.

    Raises:
        UserError: there is no such file.
    """
    metric: Metric = registry.load(__name__, name, "params.yaml: evaluate.metrics").METRIC
    return metric
