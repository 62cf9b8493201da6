"""How far MLflow has a journal: shipped.json next to it, written by whoever sends it, one process at a time."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.config import Tracking
from pipeline.files import locked, write_json
from pipeline.tracking import journal
from pipeline.tracking.journal import BusyError
from pipeline.tracking.target import Target, resolve

STATE = "shipped.json"
LOCK = "shipper.lock"


@dataclass
class Shipped:
    """The content of shipped.json.

    target: digest of the target; offset: bytes of the journal that MLflow has; base: the first of them that are not
    sent, because MLflow has that part of the training from elsewhere; refused: what MLflow will never take, and why.
    """

    target: str
    experiment: str
    run_id: str | None = None
    offset: int = 0
    base: int = 0
    refused: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, target: Target) -> "Shipped":
        """Return what is known for the target: nothing if the file is absent, damaged or of another target."""
        try:
            state = cls(**json.loads((folder / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(target.digest, target.experiment)
        return state if state.target == target.digest else cls(target.digest, target.experiment)

    def write(self, folder: Path) -> None:
        """Replace the folder's shipped.json."""
        write_json(folder / STATE, asdict(self))

    def is_complete(self, folder: Path) -> bool:
        """Return whether MLflow has all that the journal holds."""
        path = folder / journal.NAME
        size = path.stat().st_size if path.exists() else 0
        return self.run_id is not None and self.offset == size


def is_synced(folder: Path, tracking: Tracking) -> bool:
    """Return whether MLflow has all of a journal, as far as is known on this disk."""
    return Shipped.read(folder, resolve(tracking)).is_complete(folder)


def last_sent(folder: Path) -> tuple[str, str] | None:
    """Return the MLflow run id and experiment that a journal was last sent to; None if it was never sent."""
    try:
        state = Shipped(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return (state.run_id, state.experiment) if state.run_id else None


def run_page(folder: Path, tracking: Tracking) -> str | None:
    """Return where a person sees the run of a journal; None until MLflow has it."""
    target = resolve(tracking)
    run_id = Shipped.read(folder, target).run_id
    return target.page(run_id) if run_id else None


@contextmanager
def sole_sender(folder: Path, wait: float) -> Iterator[None]:
    """Keep other processes from sending this folder's journal while the block runs.

    Args:
        folder: A journal's folder.
        wait: Seconds to wait for another sender to finish.

    Raises:
        BusyError: Another process is still sending it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, wait))
        except BlockingIOError:
            raise BusyError(
                f"{folder}: another process is sending this run to MLflow; try again when it is done."
            ) from None
        yield
