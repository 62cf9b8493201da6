"""That MLflow does not answer is said once, not by every stage of a `dvc repro`, and costs each of them little.

outage.json, beside the folders of the journals, says which MLflow was found silent, and when last.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

from pipeline.files import write_json
from pipeline.tracking.target import NO_ANSWER, Target, find_outage

NOTE = "outage.json"

_logger = logging.getLogger(__name__)
_NEWS_AGAIN_SECONDS = 600.0
_TRY_AGAIN_SECONDS = 120.0  # a server that takes a connection and says nothing costs each try many seconds
_SECONDS_IF_KNOWN = 0.5  # for a host that swallows connections


def is_away(target: Target, journals: Path, what: str, *, always: bool = False) -> bool:
    """Return whether MLflow does not answer; say so if that is news.

    Args:
        target: Where MLflow is.
        journals: The folder of all journals' folders.
        what: What `genloom sync` will send, for the message.
        always: Say it again.

    Returns:
        Whether nothing listens there, or it was silent a moment ago.
    """
    before = _read(journals / NOTE, target)
    if before.get("silent") and time.time() - before["time"] < _TRY_AGAIN_SECONDS:
        problem: str | None = NO_ANSWER
    else:
        problem = find_outage(target, _SECONDS_IF_KNOWN) if before else find_outage(target)
        if problem:
            _write(journals, target, silent=False)
        else:
            (journals / NOTE).unlink(missing_ok=True)
    if problem and (always or not before):
        _logger.warning(
            "tracking: MLflow at %s does not answer (%s). Nothing waits for it: `genloom sync` sends %s later.",
            target.shown,
            problem,
            what,
        )
    return problem is not None


def remember_silence(target: Target, journals: Path) -> None:
    """Keep the stages of the next two minutes from waiting for a server that takes connections and says nothing."""
    _write(journals, target, silent=True)


def _write(journals: Path, target: Target, *, silent: bool) -> None:
    write_json(journals / NOTE, {"target": target.digest, "time": time.time(), "silent": silent})


def _read(note: Path, target: Target) -> dict[str, Any]:
    """Return what is known of the target; nothing if that is of another one, or old."""
    try:
        content: dict[str, Any] = json.loads(note.read_text())
        known = content["target"] == target.digest and 0 <= time.time() - content["time"] < _NEWS_AGAIN_SECONDS
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return content if known else {}
