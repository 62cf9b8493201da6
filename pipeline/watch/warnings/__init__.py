"""One kind of warning per file; the file name is what params.yaml: runs.<run>.stop_on names."""

from collections.abc import Iterable

from pipeline import registry
from pipeline.watch.warning import EarlyWarning


def names() -> list[str]:
    """List every kind of warning: the files of this folder."""
    return registry.names(__name__)


def load(name: str) -> EarlyWarning:
    """Return the warning that the file of that name defines.

    Args:
        name: the file's name.

    Returns:
        Its ``WARNING``.

    Raises:
        UserError: there is no such file.
    """
    warning: EarlyWarning = registry.load(__name__, name, "params.yaml: stop_on").WARNING
    return warning


def of(measures: Iterable[str]) -> dict[str, EarlyWarning]:
    """Return the warnings that can be given where these measures are taken, by kind."""
    known = frozenset(measures)
    found = {name: load(name) for name in names()}
    return {name: warning for name, warning in found.items() if warning.needs <= known}
