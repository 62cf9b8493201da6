"""Where a run keeps its checkpoints and snapshots: a folder, and a URL too where nodes share no folder."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.files import locked
from pipeline.storage.checkpoint import Budgets, Checkpoints, name_of
from pipeline.storage.remote import RemoteStore

FETCH_SECONDS = 600.0


def training_folder(scratch: Path, name: str, key: str) -> Path:
    """Return where a training keeps checkpoints and snapshots: outside the outs, which DVC deletes before a rerun.

    Args:
        scratch: of the project.
        name: the run's.
        key: of the training's course.

    Returns:
        The folder, which need not exist.
    """
    return scratch / "trainings" / f"{name}-{key[:16]}"


@dataclass(frozen=True)
class Store:
    """One run's checkpoints on this node and, if there is a URL, there; the URL then decides.

    Attributes:
        folder: of the run, on this node.
        key: which training the checkpoints are of.
        url: where they are kept too; None if all nodes see the folder.
    """

    folder: Path
    key: str
    url: str | None = None

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints in the folder."""
        return Checkpoints(self.folder, self.key)

    @property
    def remote(self) -> RemoteStore | None:
        """What the URL names."""
        return RemoteStore(self.url, self.folder) if self.url else None

    def newest(self, before: float = math.inf) -> int | None:
        """Find the newest whole checkpoint, and download it if there is a URL.

        Args:
            before: only checkpoints of fewer images count.

        Returns:
            Images seen, or None if there is no checkpoint.
        """
        if self.remote:
            return self.remote.fetch_newest(self.checkpoints.is_whole, before)
        return self.checkpoints.newest(before)

    def fetch_checkpoint(self, seen: int) -> bool:
        """Download checkpoint ``seen`` if needed; True if this node then has an undamaged copy."""
        if self.remote:
            with locked(self.folder / "fetching", wait=FETCH_SECONDS):  # once per node
                self.remote.fetch(name_of(seen))
        return self.checkpoints.is_whole(seen)

    def save(self, seen: int, content: dict[str, Any], budgets: Budgets) -> None:
        """Write a checkpoint to the folder, and to the URL, as ``Checkpoints.save`` does."""
        self.checkpoints.save(seen, content, budgets)
        if self.remote:
            self.remote.send(name_of(seen))
            self.remote.drop(partial(budgets.outdated, seen=seen))

    def existing(self) -> list[int]:
        """Return images seen at each checkpoint at hand, damaged or not, in ascending order."""
        return self.remote.existing() if self.remote else self.checkpoints.existing()

    def send_snapshot(self, name: str) -> None:
        """Copy a picture that lies in the folder's snapshots/ to the URL, if there is one."""
        if self.remote:
            self.remote.send(f"snapshots/{name}")

    def fetch_snapshots(self, names: Iterable[str]) -> None:
        """Download pictures that are at the URL."""
        if self.remote:
            for name in names:
                self.remote.fetch(f"snapshots/{name}")
