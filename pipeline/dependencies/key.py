"""The keys of a training: one of its course, which says whose checkpoints it may go on from, and one of its result.

A course is all that decides the state after some number of images. The budget belongs to it only where the method uses
it (``Method.uses_budget``); how often rows, snapshots and checkpoints are made never does. A result is a course up to
the end of one budget, with the rows and snapshots made on the way: its key names the run in MLflow.

Beside the checkpoints, key.json says what they are of, so that a training which starts anew can say why.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import Run
from pipeline.core.method import Method
from pipeline.dependencies.entries import read_code
from pipeline.files import write_json

FILE = "key.json"
BUDGET = "images"
CADENCES = ("log_every", "snapshot_every", "watch_every")  # of what is published
CHOSEN = ("stop_on", "keep")  # which of the states is the result
# The weights themselves count; no output shows checkpoints; each of several seeds is a training of its own.
ELSEWHERE = ("init_from", "weights", "checkpoint_every", "seeds")


@dataclass(frozen=True)
class TrainingKey:
    """All that determines a training. Where it runs and who watches do not enter.

    Attributes:
        params: those that decide the course, by name, defaults included.
        data: the digest of the data set.
        code: the hash of what is reached in each file that decides the course (entries.py), by path.
        initial: sha256 of the weights that it begins from, or None.
        result: the other params that the result depends on: the budget, unless it decides the course, cadences, and
            which state is the result.
    """

    params: Mapping[str, Any]
    data: str
    code: Mapping[str, str]
    initial: str | None = None
    result: Mapping[str, Any] | None = None

    @cached_property
    def course(self) -> str:
        """sha256 over all that decides the states."""
        return _sha256({name: value for name, value in asdict(self).items() if name != "result"})

    @cached_property
    def digest(self) -> str:
        """sha256 over all of it."""
        return _sha256(asdict(self))

    @classmethod
    def of(cls, run: Run, method: Method, data: str, initial: str | None = None) -> "TrainingKey":
        """Return the key of a run, with the code that out/code holds for its method.

        Args:
            run: the settings that every run has.
            method: the method with its own.
            data: the digest of the data set.
            initial: sha256 of the weights that it begins from.

        Returns:
            The key.

        Raises:
            UserError: out/code does not have the method's code.
        """
        params = {name: value for name, value in (asdict(run) | asdict(method)).items() if name not in ELSEWHERE}
        apart = (*CADENCES, *CHOSEN) if method.uses_budget() else (BUDGET, *CADENCES, *CHOSEN)
        result = {name: params.pop(name) for name in apart}
        return cls(params, data, read_code(f"course-{run.method}"), initial, result)

    def write(self, folder: Path) -> None:
        """Leave with the checkpoints what they are of."""
        write_json(folder / FILE, asdict(self))


def differences(folder: Path, key: TrainingKey) -> list[str]:
    """Say in what the courses of two trainings differ.

    Args:
        folder: where the checkpoints of one lie.
        key: of the other.

    Returns:
        Such as "lr", "pipeline/nets/dcgan.py", "the data"; one sentence if the folder does not say.
    """
    try:
        there = json.loads((folder / FILE).read_text())
        params, code = dict(there["params"]), dict(there["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return ["its code, of which an earlier version of Genloom kept no account"]
    here = json.loads(json.dumps(asdict(key), default=str))
    found = [name for name in {**params, **here["params"]} if params.get(name) != here["params"].get(name)]
    if BUDGET in found:
        found[found.index(BUDGET)] = f"{BUDGET} (its schedule runs over the whole budget)"
    found += [path for path in sorted({**code, **key.code}) if code.get(path) != key.code.get(path)]
    found += ["the data"] if there.get("data") != key.data else []
    return found + (["the weights it begins from"] if there.get("initial") != key.initial else [])


def changed_cadences(folder: Path, key: TrainingKey) -> dict[str, int]:
    """Return the cadences of the rows and snapshots in a folder's checkpoints, where ``key`` has others."""
    try:
        there = dict(json.loads((folder / FILE).read_text())["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: there[name] for name in CADENCES if there.get(name) not in (None, (key.result or {}).get(name))}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
