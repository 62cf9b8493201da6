"""The contract of an early warning: a pure function of what was seen so far, and what to try.

A warning is one file of pipeline/watch/warnings, named as ``runs.<run>.stop_on`` names it, that defines ``WARNING``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple


class Point(NamedTuple):
    """Numbers at one moment of a training.

    Attributes:
        seen: images seen.
        values: by name.
    """

    seen: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Past:
    """A training up to a look, which is the last of ``looks``.

    Attributes:
        looks: what measures said.
        rows: what the log windows said up to that look, a mean over each.
    """

    looks: Sequence[Point]
    rows: Sequence[Point] = ()

    def held_since(self, holds: Callable[[Mapping[str, float]], bool], *, looks: int, images: int) -> int | None:
        """Return where something began that holds at the last look, and has held without a break.

        Args:
            holds: of the measures' values at a look.
            looks: at how many it must have held, at least.
            images: over how many it must have held, at least, so that frequent looks do not make it sooner.

        Returns:
            Images seen at the first of these looks; None if it does not hold, or not for so long.
        """
        held = list(takewhile(lambda point: holds(point.values), reversed(self.looks)))
        if len(held) < looks or held[0].seen - held[-1].seen < images:
            return None
        return held[-1].seen


@dataclass(frozen=True)
class Finding:
    """What a warning tells of. since: images seen where it began; what: the numbers, for a message."""

    since: int
    what: str


@dataclass(frozen=True, kw_only=True)
class EarlyWarning:
    """A kind of warning.

    Attributes:
        title: what it is called in a message.
        find: what there is to warn of at the last look; None: nothing. Pure.
        needs: names of measures; where a method cannot be watched by one of them, it is not warned so.
        remedies: what to try, by the param that it takes: what a run does not have is left out.
    """

    title: str
    find: Callable[[Past], Finding | None]
    needs: frozenset[str] = frozenset()
    remedies: Mapping[str, str] = field(default_factory=dict)

    def message(self, finding: Finding, params: Mapping[str, object]) -> str:
        """Return one sentence on what was found, and one on what to try.

        Args:
            finding: what was found.
            params: of the run, by name.

        Returns:
            Such as "collapse since 5,000 images: ... . Try a lower lr (now 0.5)."
        """
        fitting = [text.format(**params) for param, text in self.remedies.items() if param in params]
        advice = f" Try {', or '.join(fitting)}." if fitting else ""
        return f"{self.title} since {finding.since:,} images: {finding.what}.{advice}"
