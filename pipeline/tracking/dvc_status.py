"""Whether the disk holds what DVC recorded, as `dvc status` says it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.tracking.dvc_lock import Stage

RWLOCK = Path(".dvc/tmp/rwlock")  # DVC's own record of who reads and writes what
AS_RECORDED = "as recorded"
MISSING = "missing"
UNKNOWN = "unknown"
_STATES = {
    "new": "modified since",
    "modified": "modified since",
    "deleted": MISSING,
    "not in cache": "not in the cache",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """What differs from dvc.lock: stage -> path -> DVC's word. problem: why DVC could not say."""

    changes: Mapping[str, Mapping[str, str]]
    problem: str | None = None

    def state(self, stage: Stage, path: str) -> str:
        """Return the state of a dep or an out of a stage: as recorded, modified since, missing or unknown."""
        if not Path(path).exists():
            return MISSING
        if self.problem:
            return UNKNOWN
        word = self.changes.get(stage.name, {}).get(path)
        return _STATES.get(word, word) if word else AS_RECORDED


def read_status(stages: Iterable[Stage]) -> Status:
    """Ask DVC, which takes seconds, how the deps and outs of these stages differ from dvc.lock."""
    names = sorted({stage.name for stage in stages})
    if not names:
        return Status(changes={})
    if (pid := _find_worker()) is not None:
        return Status(changes={}, problem=f"DVC is at work (process {pid}); ask again when it is done")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", *names],
        capture_output=True,
        text=True,
        env=os.environ | {"DVC_NO_ANALYTICS": "true"},
    )
    # Other lines may come before the JSON.
    start = re.search(r"^\{", done.stdout, re.MULTILINE)
    if done.returncode or start is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        return Status(changes={}, problem=f"`dvc status` failed: {lines[0]}")
    report: Mapping[str, list[Any]] = json.JSONDecoder().raw_decode(done.stdout[start.start() :])[0]
    return Status(changes={name: _paths(entries) for name, entries in report.items()})


def _find_worker() -> int | None:
    """Return the id of a process that runs stages now, if any.

    `dvc status` would lock the project, and a stage that ends in that moment fails although it has done its work.
    """
    try:
        content = json.loads(RWLOCK.read_text())
        readers = [holder for holders in content.get("read", {}).values() for holder in holders]
        pids = [int(holder["pid"]) for holder in [*content.get("write", {}).values(), *readers]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return next((pid for pid in pids if psutil.pid_exists(pid)), None)


def _paths(entries: Iterable[Any]) -> dict[str, str]:
    """Return path -> DVC's word of a stage's changed deps and outs; its params and its command are no files."""
    groups = [group for entry in entries if isinstance(entry, dict) for group in entry.values()]
    return {path: word for group in groups for path, word in group.items() if isinstance(word, str)}
