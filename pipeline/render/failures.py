"""Why a stage of a run failed: out/runs/<run>/failed.json, which the report and the end of `make repro` tell from.

It maps a stage to a reason. A stage's outs are removed before it runs, so an entry counts only while they are missing:
results that DVC takes from its cache later need nobody to remove it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import write_json

FAILED = "failed.json"
# By stage, in their order: what the stage leaves in a run's folder when it succeeds.
LEFT = {"train": "train.json", "generate": "features", "evaluate": "metrics.json", "render": "samples.png"}


def note_failure(folder: Path, stage: str, reason: str) -> None:
    """Keep why a stage of a run failed; ``folder`` is the run's, which need not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED, _noted(folder) | {stage: reason})


def forget_failure(folder: Path, stage: str) -> None:
    """Remove what was kept of an earlier failure of a stage."""
    noted = _noted(folder)
    if noted.pop(stage, None) is None:
        return
    if noted:
        write_json(folder / FAILED, noted)
    else:
        (folder / FAILED).unlink()


def read_failures(folder: Path) -> dict[str, str]:
    """Return the reasons by stage, in the stages' order, of those that failed and left nothing."""
    noted = _noted(folder)
    return {stage: noted[stage] for stage, out in LEFT.items() if stage in noted and not (folder / out).exists()}


def why_untrained(name: str, runs: Mapping[str, Mapping[str, Any]], out: Path) -> str | None:
    """Say why a run has no weights, as far as is known.

    Args:
        name: the run's.
        runs: of params.yaml.
        out: the folder with the folder runs.

    Returns:
        The reason that its training left; or which run it waits for, for DVC passed over it then and what it has is of
        an earlier training; or that nothing is known. None if it is trained.
    """
    if reason := read_failures(out / "runs" / name).get("train"):
        return reason
    kind, _, other = str(runs[name].get("init_from", "")).partition("/")
    if kind == "runs" and other in runs and why_untrained(other, runs, out):
        return f"not trained: it begins from {kind}/{other}, which is not trained either."
    if (out / "runs" / name / LEFT["train"]).is_file():
        return None
    return f"not trained, and no reason is recorded: see what `dvc repro train@{name}` prints."


def _noted(folder: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads((folder / FAILED).read_text())
    except (OSError, ValueError):
        return {}
    return content
