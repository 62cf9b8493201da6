"""Checks of a method's params, said once, with the param's name first."""

from collections.abc import Sequence
from typing import Any


def require(
    method: Any,
    *names: str,
    positive: bool = False,
    nonnegative: bool = False,
    unit: bool = False,
    among: Sequence[str] = (),
) -> None:
    """Raises ValueError unless each named field is > 0, >= 0, in [0, 1), or one of ``among``."""
    for name in names:
        value = getattr(method, name)
        if positive and not value > 0:
            raise ValueError(f"{name}: should be greater than 0")
        if nonnegative and not value >= 0:
            raise ValueError(f"{name}: should be at least 0")
        if unit and not 0 <= value < 1:
            raise ValueError(f"{name}: should be in [0, 1)")
        if among and value not in among:
            raise ValueError(f"{name}: should be one of {', '.join(among)}")
