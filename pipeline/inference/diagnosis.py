"""Why a trained method gives numbers that are not finite: its training diverged, or sound weights overflow."""

import csv
import math
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.inference.weights import Trained

_GONE = 100.0  # times what it was at first, or 1: a loss that has grown so much is no training's


class NotFiniteError(UserError):
    """Samples or scores of a trained method are not finite: a fault of this run, and of no other.

    found: what is not finite, by which another process, which has the run's folder, diagnoses it.
    """

    def __init__(self, message: str, found: str = "") -> None:
        super().__init__(message)
        self.found = found


def not_finite(trained: Trained, found: str) -> NotFiniteError:
    """Return the error that tells a diverged training from an overflow, and names the setting that mends it.

    Args:
        trained: the method and its weights; of its run's folder, history.csv is read where it is there.
        found: what is not finite, such as "3 of 64 samples".

    Returns:
        The error, not raised.
    """
    where = trained.source or Path("weights.safetensors")
    losses = _losses(where.parent / "history.csv")
    reason = _of_weights(trained) or _of_losses(losses)
    if reason:
        remedy = "Lower its learning rate (runs.<run>.lr) in params.yaml and train it again."
        return NotFiniteError(f"{where}: {found} are not finite: the training diverged: {reason}. {remedy}", found)
    course = "".join(f", {name} went from {first:.3g} to {last:.3g}" for name, (first, last) in losses.items())
    remedy = trained.method.overflow_remedy() or "Lower its learning rate, or choose another seed."
    return NotFiniteError(
        f"{where}: {found} are not finite, though the training did not diverge (all weights are finite{course}): "
        f"'{trained.name}' overflows with these weights. {remedy}",
        found,
    )


def _of_weights(trained: Trained) -> str:
    tensors = [value for value in trained.nets.state_dict().values() if value.is_floating_point()]
    spoilt = sum(not bool(torch.isfinite(value).all()) for value in tensors)
    return f"{spoilt} of the {len(tensors)} tensors of its weights hold NaN or infinity" if spoilt else ""


def _of_losses(losses: dict[str, tuple[float, float]]) -> str:
    gone = [
        f"{name} ended at {last:.3g}"
        for name, (first, last) in losses.items()
        if not math.isfinite(last) or abs(last) > _GONE * max(1.0, abs(first))
    ]
    return ", ".join(gone)


def _losses(history: Path) -> dict[str, tuple[float, float]]:
    """Return each loss at the first and the last log window; {} without a history."""
    if not history.is_file():
        return {}
    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name.endswith("/loss")]
    return {name: (float(rows[0][name] or "nan"), float(rows[-1][name] or "nan")) for name in names}
