"""One paper per file; the file name is the registry."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.method import Method
from pipeline.errors import UserError, nearest

if TYPE_CHECKING:
    from pipeline.config import Run


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
    """The method with its params; what does not fit raises TypeError or ValueError."""
    return find(name)(**settings)


def configure(run: "Run", settings: Mapping[str, Any], prefix: str, path: Path = Path("params.yaml")) -> Method:
    """The same from a run of params.yaml, whose keys begin with ``prefix`` ("runs.<name>.").

    What does not fit raises UserError with file, key and remedy.
    """
    from pipeline.config import Run, checked, field_names, refuse_unknown

    try:
        cls = find(run.method)
    except UserError as error:
        raise UserError(f"{path}: {prefix}method: {error}") from None
    refuse_unknown(settings, field_names(cls), path, prefix, also=field_names(Run))
    method: Method = checked(cls, dict(settings), path, prefix)
    return method
