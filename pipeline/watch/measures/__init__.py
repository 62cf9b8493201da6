"""One measure per file; the file name is the curve's, and what params.yaml: runs.<run>.keep may name."""

from pipeline import registry
from pipeline.core.method import Method
from pipeline.watch.measure import Measure, offered


def names() -> list[str]:
    """List every measure: the files of this folder."""
    return registry.names(__name__)


def load(name: str) -> Measure:
    """Return the measure that the file of that name defines.

    Args:
        name: the file's name.

    Returns:
        Its ``MEASURE``.

    Raises:
        UserError: there is no such file.
    """
    measure: Measure = registry.load(__name__, name, "params.yaml: keep").MEASURE
    return measure


def of(method: Method) -> dict[str, Measure]:
    """Return the measures that a method's training can be watched by, by name."""
    found = {name: load(name) for name in names()}
    return {name: measure for name, measure in found.items() if measure.needs <= offered(method)}
