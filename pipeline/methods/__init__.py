"""One paper per file; the file name is the registry."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.config import Run
from pipeline.config.validation import checked, field_names, validated
from pipeline.core.method import Method
from pipeline.errors import nearest


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
    """Return a method with its params checked: the way to make one in Python.

    The classes are plain dataclasses: called directly, they check what ties two params together, but neither
    types nor ranges.

    Args:
        name: the method's file.
        **settings: its params; those left out have their defaults.

    Returns:
        The method.

    Raises:
        UserError: there is no such method.
        TypeError: a param that the method does not have.
        ValueError: a value that does not fit: "param: what it should be, got the value".
    """
    cls = find(name)
    for key in settings:
        if key not in field_names(cls):
            raise TypeError(f"{name} has no param '{key}'. {nearest(key, field_names(cls))}")
    method: Method = validated(cls, settings)
    return method


def configure(run: Run, settings: Mapping[str, Any], prefix: str, path: Path = Path("params.yaml")) -> Method:
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
    cls = find(run.method, f"{path}: {prefix}method")
    method: Method = checked(cls, dict(settings), path, prefix, also=field_names(Run))
    return method
