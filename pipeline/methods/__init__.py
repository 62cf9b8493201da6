"""One paper per file; the file name is the registry."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import registry
from pipeline.core.method import Method

if TYPE_CHECKING:
    from pipeline.config import Run


def names() -> list[str]:
    """List every method: the files of this folder."""
    return registry.names(__name__)


def find(name: str, key: str = "method") -> type[Method]:
    """Return the class of the method in the file of that name.

    Args:
        name: the file's name.
        key: what the message names.

    Returns:
        The one Method subclass that the file defines.

    Raises:
        UserError: there is no such file.
    """
    module = registry.load(__name__, name, key)
    return next(
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    )


def load(name: str, **settings: Any) -> Method:
    """Return the method with its params; what does not fit raises TypeError or ValueError."""
    return find(name)(**settings)


def configure(run: "Run", settings: Mapping[str, Any], prefix: str, path: Path = Path("params.yaml")) -> Method:
    """Return a run's method with the params that params.yaml gives it.

    Args:
        run: the settings that every run has.
        settings: the rest of the run, which belongs to its method.
        prefix: of the run's keys, such as "runs.dcgan.".
        path: of the params file, for messages.

    Returns:
        The method, its params checked.

    Raises:
        UserError: no such method, an unknown param, or a value that does not fit; with file, key and remedy.
    """
    from pipeline.config import Run, checked, field_names, refuse_unknown

    cls = find(run.method, f"{path}: {prefix}method")
    refuse_unknown(settings, field_names(cls), path, prefix, also=field_names(Run))
    method: Method = checked(cls, dict(settings), path, prefix)
    return method
