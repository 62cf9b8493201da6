"""The registry of everything that can be chosen by name in params.yaml: the file name is the name.

Methods, sources, extractors and metrics are one file each, in a folder of their own. Nothing is registered by hand and
no folder imports all of its files, so that a new file changes nothing for what does not use it.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from pipeline.errors import UserError, nearest

ROOT = Path(__file__).parent


def names(package: str) -> list[str]:
    """List what can be chosen: the files of a package such as "pipeline.methods", sorted.

    A file whose name begins with an underscore is a part of others and no choice.
    """
    folder = ROOT.joinpath(*package.split(".")[1:])
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(package: str, name: str, key: str) -> ModuleType:
    """Import the module of that name.

    Args:
        package: such as "pipeline.methods".
        name: the file's name without its ending.
        key: what the message names, such as "params.yaml: data.source".

    Returns:
        The imported module.

    Raises:
        UserError: there is no such file; the message has the nearest name that there is.
    """
    check(package, name, key)
    return importlib.import_module(f"{package}.{name}")


def check(package: str, name: str, key: str, also: Sequence[str] = ()) -> None:
    """Raise UserError as ``load`` does if there is no such file; imports nothing.

    Args:
        package: such as "pipeline.methods".
        name: the file's name without its ending.
        key: what the message names.
        also: names that are no files, to suggest too.

    Raises:
        UserError: with the nearest name that there is.
    """
    known = names(package)
    if name not in known:
        kind = package.rpartition(".")[2].removesuffix("s")
        raise UserError(f"{key}: there is no {kind} '{name}'. {nearest(name, [*also, *known])}")
