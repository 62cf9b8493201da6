"""One comparison per file; the file name is what params.yaml: evaluate.comparisons names."""

from pipeline import registry
from pipeline.render.comparison import Comparison


def names() -> list[str]:
    """List every comparison: the files of this folder."""
    return registry.names(__name__)


def load(name: str) -> Comparison:
    """Return the comparison that the file of that name defines.

    Args:
        name: the file's name.

    Returns:
        Its ``COMPARISON``.

    Raises:
        UserError: there is no such file.
    """
    comparison: Comparison = registry.load(__name__, name, "params.yaml: evaluate.comparisons").COMPARISON
    return comparison
