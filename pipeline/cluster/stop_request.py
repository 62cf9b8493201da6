"""A request to stop, from the driver to the workers. A file of its own: the actor's process loads neither torch nor Ray
Train."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class StopRequest:
    """An actor that passes the driver's request to stop on to the workers."""

    def __init__(self) -> None:
        self.made = False

    def make(self) -> None:
        """Ask the workers to stop at their next log window."""
        self.made = True

    def is_made(self) -> bool:
        """Return True once the driver has asked the workers to stop."""
        return self.made


@dataclass(frozen=True)
class StopByActor:
    """A request through an actor, for workers that may be on other nodes.

    Attributes:
        actor: of `StopRequest`.
    """

    actor: Any

    def make(self) -> None:
        """Ask the workers to stop at their next log window."""
        self.actor.make.remote()

    def is_made(self) -> bool:
        """Return True once the driver has asked the workers to stop."""
        import ray

        return bool(ray.get(self.actor.is_made.remote()))


@dataclass(frozen=True)
class StopByFile:
    """A request by a file, for workers on the driver's machine: it takes no process, and no message at each look.

    Attributes:
        file: where it lies once it is made; whoever starts a training removes an earlier one.
    """

    file: Path

    def make(self) -> None:
        """Ask the workers to stop at their next log window."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()

    def is_made(self) -> bool:
        """Return True once the driver has asked the workers to stop."""
        return self.file.exists()
