"""Checkpoints on disk that are complete or absent, the same with Ray or without.

    <store>/checkpoints/<images seen>/state.pt        read with weights_only=True
    <store>/checkpoints/<images seen>/manifest.json   the key of the run and the hash of each file

A folder gets its name only when all of it is on disk; training resumes from the newest whose hashes match.
"""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from pipeline.files import atomic_folder, sha256_of
from pipeline.storage.hashed import HashedFile

KEPT = 2
MANIFEST, STATE = "manifest.json", "state.pt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budgets:
    """Where the budgets of one course of training end, which decides what checkpoints stay.

    Attributes:
        until: images seen where this training ends.
        ended: where earlier ones ended.
        best: where the state is that the run keeps, as far as is known.
    """

    until: float = math.inf
    ended: Sequence[int] = ()
    best: Sequence[int] = ()

    def outdated(self, existing: Iterable[int], seen: int) -> set[int]:
        """Return which checkpoints nothing needs once the one at ``seen`` is written.

        The newest ones are kept, up to and including that; those where a budget ended, as results that may be asked for
        again; the best one; and those of a larger budget. Newer ones within the budget were refused when training
        resumed before them.

        Args:
            existing: images seen at all checkpoints, in any order.
            seen: at the newest of this training.

        Returns:
            Images seen at those to remove.
        """
        found = set(existing)
        newest = sorted(other for other in found if other <= seen)[-KEPT:]
        ended = {other for other in self.ended if other <= seen}
        return found - set(newest) - ended - set(self.best) - {other for other in found if other > self.until}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: the run's folder.
        key: identifies the run; checkpoints with another key are refused.
    """

    folder: Path
    key: str

    def save(self, seen: int, content: dict[str, Any], budgets: Budgets) -> None:
        """Write a checkpoint, and remove those that are outdated.

        Args:
            seen: images seen.
            content: tensors, numbers, text and containers of them.
            budgets: say which others stay.
        """
        with atomic_folder(self._path(seen)) as temporary:
            with HashedFile(temporary / STATE) as state:
                torch.save(content, cast(IO[bytes], state))  # of which it takes ``write``
            manifest = {"key": self.key, "seen": seen, "files": {STATE: state.hexdigest()}}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for other in budgets.outdated(self.existing(), seen):
            self._drop(other)

    def newest(self, before: float = math.inf) -> int | None:
        """Return images seen at the newest undamaged checkpoint before ``before``, and warn of damaged ones."""
        return next((seen for seen in reversed(self.existing()) if seen < before and self.is_whole(seen)), None)

    def is_whole(self, seen: int) -> bool:
        """Return True if the checkpoint is this run's and every file matches its hash; else warn."""
        problem = self._problem(seen)
        if problem is not None:
            _log.warning("%s: %s; taking the checkpoint before it", self._path(seen), problem)
        return problem is None

    def load(self, seen: int, device: torch.device) -> dict[str, Any]:
        """Read a checkpoint that ``newest`` returned, with its tensors on ``device``."""
        content: dict[str, Any] = torch.load(self._path(seen) / STATE, map_location=device, weights_only=True)
        return content

    def peek(self, seen: int) -> dict[str, Any]:
        """Read a checkpoint without reading its tensors: they are mapped, and come from the disk when they are used."""
        path = self._path(seen) / STATE
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content

    def _problem(self, seen: int) -> str | None:
        try:
            manifest = json.loads((self._path(seen) / MANIFEST).read_text())
            if manifest["key"] != self.key:
                return "it belongs to another run"
            for name, digest in manifest["files"].items():
                if sha256_of(self._path(seen) / name) != digest:
                    return f"{name} does not match its hash"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"unreadable ({error})"
        return None

    def existing(self) -> list[int]:
        """Return images seen at each checkpoint, damaged or not, in ascending order."""
        folder = self.folder / "checkpoints"
        return sorted(int(path.name) for path in folder.glob("[0-9]*")) if folder.exists() else []

    def _path(self, seen: int) -> Path:
        return self.folder / name_of(seen)

    def _drop(self, seen: int) -> None:
        # The manifest goes first: a folder that is half-deleted is no checkpoint.
        for name in (MANIFEST, STATE):
            (self._path(seen) / name).unlink(missing_ok=True)
        self._path(seen).rmdir()


def name_of(seen: int) -> str:
    """Return a checkpoint's folder, below its run's."""
    return f"checkpoints/{seen:012d}"
