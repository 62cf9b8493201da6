"""A space of params, as Optuna draws from it and as a grid; a trial gets it resolved, whatever the searcher.

A param that exists only where another has some value is drawn, or enumerated, only there (``Domain.when``): Optuna's
define-by-run does that, and Ray's own search spaces do not with Optuna behind them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.trial import Trial

from pipeline.config import Domain

DIGITS = 4  # of a drawn number: more of them no person reads in params.yaml, and no training tells apart

Values = dict[str, Any]


def draw(domains: Mapping[str, Domain], trial: Trial) -> Values:
    """Draw the params of a trial.

    Args:
        domains: by param, each after those on which it depends.
        trial: of an Optuna study, whose sampler draws.

    Returns:
        The params that exist, by name.
    """
    values: Values = {}
    for name, domain in domains.items():
        if exists(domain, values):
            values[name] = _draw(name, domain, trial)
    return values


def exists(domain: Domain, values: Mapping[str, Any]) -> bool:
    """Return whether a param exists beside the values of those on which it depends."""
    return all(name in values and values[name] in wanted for name, wanted in domain.when.items())


def _draw(name: str, domain: Domain, trial: Trial) -> Any:
    if domain.kind == "choice":
        shown = categories(domain)
        return domain.values[shown.index(trial.suggest_categorical(name, shown))]
    low, high = domain.values
    if domain.is_whole:
        return trial.suggest_int(name, low, high, step=int(domain.step or 1), log=domain.is_logarithmic)
    value = trial.suggest_float(name, low, high, step=domain.step, log=domain.is_logarithmic)
    return rounded(value, low, high)


def categories(domain: Domain) -> list[Any]:
    """Return the choices as Optuna takes them, which has no lists: in their place stand their texts."""
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in domain.values)
    return list(domain.values) if plain else [json.dumps(value) for value in domain.values]


def rounded(value: float, low: float, high: float) -> float:
    """Return a number of DIGITS significant digits, within its range."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def grid(domains: Mapping[str, Domain]) -> Iterator[Values]:
    """Yield every combination, the last param's values fastest.

    Args:
        domains: by param, each after those on which it depends.

    Yields:
        The params that exist, by name.
    """
    yield from _grid(list(domains.items()), {})


def _grid(left: list[tuple[str, Domain]], values: Values) -> Iterator[Values]:
    if not left:
        yield values
        return
    (name, domain), *rest = left
    if not exists(domain, values):
        yield from _grid(rest, values)
        return
    for value in grid_values(domain):
        yield from _grid(rest, {**values, name: value})


def grid_values(domain: Domain) -> list[Any]:
    """Return a param's values in a grid: all of them, or ``points`` of a range at equal distances or ratios.

    Args:
        domain: of the param.

    Returns:
        The values, in ascending order if they are numbers of a range.

    Raises:
        ValueError: a range of numbers without step and points.
    """
    if domain.kind == "choice":
        return list(domain.values)
    low, high = domain.values
    if domain.points is None:
        step = domain.step or (1 if domain.is_whole else None)
        if step is None:
            raise ValueError("a grid needs the number of points of this range, such as points: 5")
        count = math.floor((high - low) / step + 1e-9) + 1
        values = [low + k * step for k in range(count)]
    else:
        shares = [k / (domain.points - 1) for k in range(domain.points)]
        log = domain.is_logarithmic
        values = [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
    if domain.is_whole:
        return sorted({round(value) for value in values})
    return [rounded(value, low, high) for value in values]


def grid_size(domains: Mapping[str, Domain], most: int) -> int:
    """Count the combinations, up to one more than ``most``: a space may have more than anyone can count."""
    size = 0
    for size, _ in enumerate(grid(domains), start=1):
        if size > most:
            break
    return size
