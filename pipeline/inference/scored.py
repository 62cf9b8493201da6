"""Which weights scores are of: without torch, as whatever tracks runs asks too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import sha256_of

BY_SEED = "by_seed"  # in an entry over several trainings: by seed, the entry of each alone, with its value
VALUE = "value"
WEIGHTS = "run_weights"  # in a protocol: which ones were scored


def digest_of(file: Path) -> str:
    """Return a short hash of a weights file."""
    return sha256_of(file)[:16]


def are_scores_of(training: Path, protocol: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether scores are of a training's weights: DVC leaves those of earlier ones until the stage evaluate runs.

    Args:
        training: the folder of its weights.
        protocol: how its scores were made.

    Returns:
        False where an entry names other weights; True where none does, or there is no such file.
    """
    weights = training / "weights.safetensors"
    named = {how["generated"][WEIGHTS] for how in protocol.values() if WEIGHTS in how.get("generated", {})}
    return not named or not weights.is_file() or named == {digest_of(weights)}


def of_seed(protocol: Mapping[str, Mapping[str, Any]], seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what a protocol over several trainings says of one of them.

    Args:
        protocol: a run's protocol.json.
        seed: of the training.

    Returns:
        Its numbers by key, and how each was made, as they would be of a run of that seed alone.
    """
    alone = {key: dict(how[BY_SEED][str(seed)]) for key, how in protocol.items() if str(seed) in how.get(BY_SEED, {})}
    return {key: how.pop(VALUE) for key, how in alone.items() if VALUE in how}, alone
