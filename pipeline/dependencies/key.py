"""The key of a training: equal keys mean the same training, so that its checkpoints may be resumed.

Beside a run's checkpoints, key.json says what the key is of, so that a training which starts anew can say why.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.dependencies.entries import read_code
from pipeline.files import write_json

FILE = "key.json"


@dataclass(frozen=True)
class TrainingKey:
    """All that determines a training's weights. Where it runs and who watches do not enter.

    Attributes:
        params: the run's own params, as params.yaml has them.
        data: the digest of the data set.
        code: the hash of what is reached in each file that decides the training (entries.py), by path.
        initial: sha256 of the weights that it begins from, or None.
    """

    params: Mapping[str, Any]
    data: str
    code: Mapping[str, str]
    initial: str | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()

    @classmethod
    def of(cls, params: Mapping[str, Any], data: str, initial: str | None = None) -> "TrainingKey":
        """Return the key of a run, with the code that out/code holds for its method."""
        return cls(dict(params), data, read_code(f"train-{params.get('method')}"), initial)

    def write(self, folder: Path) -> None:
        """Leave in a run's folder what its key is of."""
        write_json(folder / FILE, asdict(self))


def differences(folder: Path, key: TrainingKey) -> list[str]:
    """Say in what two trainings of a run differ.

    Args:
        folder: where the checkpoints of one lie.
        key: of the other.

    Returns:
        Such as "runs.<run>.lr", "pipeline/nets/dcgan.py", "the data"; one sentence if the folder does not say.
    """
    try:
        there = json.loads((folder / FILE).read_text())
        params, code = dict(there["params"]), dict(there["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return ["its code, of which an earlier version of Genloom kept no account"]
    found = [name for name in {**params, **key.params} if params.get(name) != key.params.get(name)]
    found += [path for path in sorted({**code, **key.code}) if code.get(path) != key.code.get(path)]
    found += ["the data"] if there.get("data") != key.data else []
    return found + (["the weights it begins from"] if there.get("initial") != key.initial else [])
