"""Student's t, by which an interval and a comparison allow for how well an error is itself known; without torch."""

import math


def t_quantile(degrees: float | None) -> float:
    """Return the 97.5% point of Student's t; of the normal distribution where the degrees of freedom are None."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(0.975) if degrees is None else stdtrit(degrees, 0.975))


def chance(first: tuple[float, float | None], second: tuple[float, float | None]) -> float:
    """Return the difference of two numbers that chance exceeds in one of 20 cases, either way (Welch 1947).

    Args:
        first: the standard error of one, and its degrees of freedom; None: the error is as good as known.
        second: of the other, independent of it.

    Returns:
        Not below 0; 0 where neither has an error.
    """
    squares = first[0] ** 2 + second[0] ** 2
    if not squares:
        return 0.0
    inverse = sum((error**2 / squares) ** 2 / degrees for error, degrees in (first, second) if degrees)
    return t_quantile(1 / inverse if inverse else None) * math.sqrt(squares)
