"""Which weights scores are of: without torch, as whatever tracks runs asks too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import sha256_of

WEIGHTS = "run_weights"  # in a protocol: which ones were scored


def digest_of(file: Path) -> str:
    """Return a short hash of a weights file."""
    return sha256_of(file)[:16]


def are_scores_of(weights: Path, protocol: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether scores are of a run's weights: DVC leaves those of earlier ones until the stage evaluate runs.

    Args:
        weights: the run's file.
        protocol: its protocol.json.

    Returns:
        False where an entry names other weights; True where none does, or there is no such file.
    """
    named = {how["generated"][WEIGHTS] for how in protocol.values() if WEIGHTS in how.get("generated", {})}
    return not named or not weights.is_file() or named == {digest_of(weights)}
