"""One paper per file; the file name is the registry."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from pipeline.core.method import Method
from pipeline.errors import UserError, nearest


def names() -> list[str]:
    """Every method: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def find(name: str) -> type[Method]:
    """The class of the method in the file of that name."""
    if name not in names():
        raise UserError(f"there is no method '{name}'. {nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    )


def load(name: str, **settings: Any) -> Method:
    """The method with its params; unknown ones raise TypeError (config.py has said so before, kindly)."""
    return find(name)(**settings)
