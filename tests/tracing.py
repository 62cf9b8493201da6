"""What a piece of code executes of this package, by a profiler, held against what the closure of its entries counts."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.dependencies.closure import Closure

CO_OPTIMIZED = 1  # set for functions, not for the bodies of modules and classes


def called(action: Callable[[], Any]) -> set[tuple[str, str, str]]:
    """The functions of the package that run: file, name at the top level, and the file of who called it."""
    found: set[tuple[str, str, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        own = "/pipeline/" in code.co_filename and code.co_filename.endswith(".py")  # no compiled template
        if event == "call" and own and code.co_flags & CO_OPTIMIZED:
            caller = frame.f_back
            while caller and "/pipeline/" not in caller.f_code.co_filename:
                caller = caller.f_back
            name = code.co_qualname.split(".")[0]
            file = caller.f_code.co_filename if caller else ""
            around = caller.f_code.co_qualname.split(".")[0] if caller else ""
            if (file, around) != (code.co_filename, name):  # a part of a function is called by who called all of it
                found.add((code.co_filename, name, file))

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found


def uncounted(
    root: Path, calls: Iterable[tuple[str, str, str]], entries: Iterable[str], wiring: tuple[str, ...] = ()
) -> set[str]:
    """The functions among the calls that neither the entries reach nor an exempt module has or calls.

    wiring: packages and modules that read params and connect, of which DVC compares what they read.
    """
    closure = Closure(root)
    reached, exempt = closure.names(entries), (*closure.exempt, *wiring)

    def is_exempt(file: str) -> bool:
        return any(f"{module_of(root, file)}.".startswith(f"{name}.") for name in exempt)

    return {
        f"{module_of(root, file)}:{name}"
        for file, name, caller in calls
        if not name.startswith("<")
        and not is_exempt(file)
        and not (caller and is_exempt(caller))
        and name not in reached.get(module_of(root, file), set())
    }


def module_of(root: Path, file: str) -> str:
    return ".".join(Path(file).relative_to(root).with_suffix("").parts).removesuffix(".__init__")
