"""A loss is far beyond what it was, though still a number.

What it was is the median of its size over the log windows before the last look, or 1 if that is more: the losses of
adversaries pass through 0.
"""

from collections.abc import Iterator
from statistics import median

from pipeline.watch.warning import EarlyWarning, Finding, Past, Point

FACTOR = 100.0
ORDINARY = 1.0


def _find(past: Past) -> Finding | None:
    before = past.looks[-2].seen if len(past.looks) > 1 else past.rows[0].seen if past.rows else 0
    earlier = [row for row in past.rows if row.seen <= before]
    recent = [row for row in past.rows if row.seen > before]
    for name in _losses(earlier):
        usual = max(ORDINARY, median(abs(row.values[name]) for row in earlier if name in row.values))
        beyond = [row for row in recent if abs(row.values.get(name, 0.0)) > FACTOR * usual]
        if beyond:
            value = max((row.values[name] for row in beyond), key=abs)
            return Finding(beyond[0].seen, f"{name} went to {value:.3g}, where its size was {usual:.3g}")
    return None


def _losses(rows: list[Point]) -> Iterator[str]:
    yield from (name for name in (rows[0].values if rows else {}) if name.endswith("/loss"))


WARNING = EarlyWarning(
    title="divergence",
    find=_find,
    remedies={
        "lr": "a lower lr (now {lr:g})",
        "critic_lr": "a lower critic_lr",
        "clip_norm": "clip_norm, which bounds gradients",
        "warm_up": "warm_up",
    },
)
