"""Checkpoints that are complete or absent, of every run alike, with Ray or without.

    <store>/checkpoints/<images seen>/state.pt        read with weights_only=True
    <store>/checkpoints/<images seen>/manifest.json   the key of the run and the hash of each file

The folder gets its name only when all of it is on disk; the newest whose hashes agree counts.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.files import atomic_folder, sha256_of

KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, which ``key`` identifies, under ``folder``."""

    folder: Path
    key: str

    def save(self, seen: int, content: dict[str, Any]) -> None:
        """Writes tensors, numbers, text and containers of them; drops all but the newest two checkpoints."""
        with atomic_folder(self._path(seen)) as temporary:
            state = temporary / "state.pt"
            torch.save(content, state)
            manifest = {"key": self.key, "seen": seen, "files": {state.name: sha256_of(state)}}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2))
        for old in self._existing()[:-KEPT]:
            self._drop(old)

    def newest(self) -> int | None:
        """Images seen at the newest whole checkpoint; a damaged one is passed over, and it is said."""
        for seen in reversed(self._existing()):
            problem = self._problem(seen)
            if problem is None:
                return seen
            warnings.warn(f"{self._path(seen)}: {problem}; taking the checkpoint before it", stacklevel=2)
        return None

    def load(self, seen: int, device: torch.device) -> dict[str, Any]:
        """The content of a checkpoint that ``newest`` named."""
        content: dict[str, Any] = torch.load(self._path(seen) / "state.pt", map_location=device, weights_only=True)
        return content

    def _problem(self, seen: int) -> str | None:
        try:
            manifest = json.loads((self._path(seen) / "manifest.json").read_text())
            if manifest["key"] != self.key:
                return "it belongs to another run"
            for name, digest in manifest["files"].items():
                if sha256_of(self._path(seen) / name) != digest:
                    return f"{name} does not match its hash"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"unreadable ({error})"
        return None

    def _existing(self) -> list[int]:
        folder = self.folder / "checkpoints"
        return sorted(int(path.name) for path in folder.glob("[0-9]*")) if folder.exists() else []

    def _path(self, seen: int) -> Path:
        return self.folder / "checkpoints" / f"{seen:012d}"

    def _drop(self, seen: int) -> None:
        # The manifest goes first: a folder that is half deleted is no checkpoint.
        for name in ("manifest.json", "state.pt"):
            (self._path(seen) / name).unlink(missing_ok=True)
        self._path(seen).rmdir()
