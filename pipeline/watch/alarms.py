"""The early warnings of a training: what every kind of warning finds in its past, each time that it begins."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypedDict

from pipeline.core.method import Method
from pipeline.watch import measures, warnings
from pipeline.watch.warning import EarlyWarning, Finding, Past


class Alarm(TypedDict):
    """An early warning, plain so that a checkpoint and a report can hold it.

    Attributes:
        kind: a file of pipeline/watch/warnings.
        since: images seen at the look where what it tells of began.
        said: images seen at the look that made sure of it.
        message: what was seen, since when, and what to try.
    """

    kind: str
    since: int
    said: int
    message: str


class _Found(NamedTuple):
    warning: EarlyWarning
    finding: Finding


def all_alarms(past: Past, method: Method, params: Mapping[str, object]) -> list[Alarm]:
    """Return the warnings of a whole training in the order in which they were given.

    Args:
        past: all of it.
        method: what trains.
        params: of the run, by name, of which advice speaks.

    Returns:
        One for each time that something began to be found; what goes on being found is not said again.
    """
    kinds = warnings.of(measures.of(method))
    places = [row.seen for row in past.rows]
    before: set[str] = set()
    given: list[Alarm] = []
    for number, look in enumerate(past.looks, start=1):
        now = dict(_findings(_cut(past, number, places), kinds))
        given += [_alarm(kind, found, look.seen, params) for kind, found in now.items() if kind not in before]
        before = set(now)
    return given


def new_alarms(past: Past, method: Method, params: Mapping[str, object]) -> list[Alarm]:
    """Return those of ``all_alarms`` that the last look gives."""
    kinds = warnings.of(measures.of(method))
    places = [row.seen for row in past.rows]
    now = dict(_findings(past, kinds))
    before = dict(_findings(_cut(past, len(past.looks) - 1, places), kinds)) if now and len(past.looks) > 1 else {}
    last = past.looks[-1].seen
    return [_alarm(kind, found, last, params) for kind, found in now.items() if kind not in before]


def _cut(past: Past, looks: int, places: list[int]) -> Past:
    """Return the past at one of its looks; places: images seen at its rows."""
    return Past(past.looks[:looks], past.rows[: bisect_right(places, past.looks[looks - 1].seen)])


def _findings(past: Past, kinds: Mapping[str, EarlyWarning]) -> Iterator[tuple[str, _Found]]:
    for kind, warning in kinds.items():
        finding = warning.find(past)
        if finding is not None:
            yield kind, _Found(warning, finding)


def _alarm(kind: str, found: _Found, said: int, params: Mapping[str, object]) -> Alarm:
    message = found.warning.message(found.finding, params)
    return {"kind": kind, "since": found.finding.since, "said": said, "message": message}
