"""The runs side by side, from the files in their folders alone, and out/leaderboard.csv, the table for tools.

Titles, directions and spreads come from protocol.json, where each metric has put its own.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluate.student import chance
from pipeline.files import atomic_file
from pipeline.inference.published import trainings
from pipeline.inference.scored import BY_SEED, are_scores_of, of_seed
from pipeline.render.failures import read_failures, why_untrained

COST = ("seconds", "images_per_second", "peak_memory_bytes", "parameters")
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}", None: ""}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What metrics said of a run or of real images: numbers and, by the same keys, how each was made."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def metric(self, key: str | None) -> float | None:
        """Return a number; None where it was not measured or is not finite."""
        value = self.metrics.get(key) if key else None
        return value if value is not None and math.isfinite(value) else None

    def interval(self, key: str | None) -> tuple[float, float] | None:
        """Return the 95% interval of a number; None where it has none."""
        found = self._interval(key)
        return (found["low"], found["high"]) if found else None

    def error(self, key: str | None) -> tuple[float, float | None]:
        """Return the standard error of a number, 0 where none is known, and its degrees of freedom (``chance``)."""
        found = self._interval(key)
        return (found["error"], found["degrees"]) if found else (0.0, None)

    def _interval(self, key: str | None) -> Mapping[str, Any] | None:
        return self.protocol.get(key, {}).get("interval") if key and self.metric(key) is not None else None

    def margin(self, key: str | None) -> float | None:
        """Return half of the interval's width; None where a number has no interval."""
        found = self.interval(key)
        return (found[1] - found[0]) / 2 if found else None

    def missing(self, why: str) -> dict[str, list[str]]:
        """Return the titles of the numbers that could not be computed, by their reason.

        Args:
            why: "refused": what was to be scored is at fault; "lacks": there are too few images.

        Returns:
            The titles by reason.
        """
        found: dict[str, list[str]] = {}
        for key, how in self.protocol.items():
            if why in how:
                found.setdefault(how[why], []).append(_column(key, how).name)
        return found


@dataclass(frozen=True, kw_only=True)
class RunFolder(Measured):
    """What a trained run left in out/runs/<name>; one that is not evaluated has no metrics.

    train: train.json of its training, of several that of the first seed; others: those of the other seeds.
    failures: why stages after its training failed, by stage.
    """

    name: str
    folder: Path
    train: Mapping[str, Any]
    others: Sequence[Mapping[str, Any]] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def trainings(self) -> Sequence[Mapping[str, Any]]:
        """Return train.json of each training, the first seed's first."""
        return [self.train, *self.others]

    def cost(self, key: str) -> float | None:
        """Return what its training cost, of several the mean; None where one does not say."""
        values = [trained.get(key) for trained in self.trainings]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return known[0] if len(known) == 1 else math.fsum(known) / len(known)

    @property
    def parameters(self) -> int:
        """Count the parameters over all nets."""
        return sum(self.train.get("parameters", {}).values())

    @property
    def troubles(self) -> list[str]:
        """Say what went wrong with it: stages that failed, and scores that were refused, each reason once."""
        refused = self.missing("refused")
        found = [f"{stage} failed: {reason}" for stage, reason in self.failures.items()]
        return found + [f"no {', '.join(titles)}: {reason}" for reason, titles in refused.items()]


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """A run of params.yaml without weights, and why."""

    name: str
    method: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the table.

    of: the extractor, or the split; better: "lower", "higher" or None; spread: its key; note: what it means, where the
    title does not say it.
    """

    key: str
    title: str
    of: str
    better: str | None
    spread: str | None
    note: str | None = None

    @property
    def name(self) -> str:
        """Return the title with what it is of, for running text."""
        return f"{self.title} {self.of}".strip()

    @property
    def arrow(self) -> str:
        """Return the sign of the better direction."""
        return ARROWS[self.better]


@dataclass(frozen=True, kw_only=True)
class Board:
    """All that the page and the table show: the runs, best first, and what they share.

    untrained: the other runs. columns: the first one ranks. real: real images' scores; picture: some of them; data: the
    dataset's spec.json; inspected: what inspection.py says of its images.
    """

    runs: Sequence[RunFolder]
    untrained: Sequence[Untrained]
    columns: Sequence[Column]
    real: Measured
    picture: Path
    data: Mapping[str, Any]
    inspected: Mapping[str, Any]

    @property
    def headline(self) -> Column | None:
        """Return the column that ranks the runs; None before any is evaluated."""
        return self.columns[0] if self.columns else None

    def is_better(self, run: RunFolder, other: RunFolder, column: Column) -> bool:
        """Tell whether a run's number is better than another's by more than chance would make it in one of 20 cases.

        By the errors of both, taken for independent (Welch 1947, of unequal errors). Numbers without an error are taken
        as they stand.
        """
        value, against = run.metric(column.key), other.metric(column.key)
        if value is None or column.better is None:
            return False
        if against is None:
            return True
        gain = against - value if column.better == "lower" else value - against
        return gain > chance(run.error(column.key), other.error(column.key))

    def rank(self, run: RunFolder) -> int | None:
        """Return one more than the number of runs that are better by the headline; None for a run without that number.

        Runs whose order may be chance share a rank.
        """
        if self.headline is None or self.headline.better is None or run.metric(self.headline.key) is None:
            return None
        return 1 + sum(self.is_better(other, run, self.headline) for other in self.runs)

    @property
    def problems(self) -> list[str]:
        """Say of each run in trouble what it is, those without weights first."""
        found = [f"{run.name}: {run.reason}" for run in self.untrained]
        return found + [f"{run.name}: {trouble}" for run in self.runs for trouble in run.troubles]


def read_board(
    out: Path, params: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], extractors: Sequence[str]
) -> Board:
    """Read the runs, and what they share; what is missing is left out, and of a run it is said why.

    Args:
        out: with the folders data, reference, real and runs.
        params: of each run, by its name, as params.yaml has them.
        metrics: their order is the columns'; others, such as methods' own scores, come after them.
        extractors: the same, within a metric.

    Returns:
        The runs by the first column, best first; those without it last, by name.

    Raises:
        UserError: a file is damaged.
    """
    reasons = {name: reason for name in params if (reason := why_untrained(name, params, out))}
    untrained = [
        Untrained(name=name, method=str(params[name].get("method", "")), reason=reason)
        for name, reason in reasons.items()
    ]
    runs = [_read_run(out, name) for name in params if name not in reasons]
    columns = _columns(runs, metrics, extractors)
    return Board(
        runs=_ranked(runs, columns[0] if columns else None),
        untrained=untrained,
        columns=columns,
        real=_read_measured(out / "real"),
        picture=out / "reference" / "real.png",
        data=_read_json(out / "data" / "spec.json"),
        inspected=_read_json(out / "inspection" / "summary.json"),
    )


def write_leaderboard(path: Path, board: Board) -> None:
    """Write one row per run; unknown cells are empty.

    run, method, images seen; score: what ranks the runs, under one name whatever params.yaml measures, and its rank
    (``Board.rank``); every metric and its spread; intervals as <metric>_low and <metric>_high; cost; failed: what went
    wrong with the run.

    Args:
        path: of the table.
        board: what it shows.
    """
    keys = [key for column in board.columns for key in (column.key, column.spread) if key]
    bounded = [column.key for column in board.columns if any(run.interval(column.key) for run in board.runs)]
    bounds = [f"{key}_{end}" for key in bounded for end in ("low", "high")]
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "method", "seen", "score", "rank", *keys, *bounds, *COST, "failed"])
        for run in board.runs:
            score = run.metric(board.headline.key if board.headline else None)
            values = [score, board.rank(run), *(run.metric(key) for key in keys)]
            values += [end for key in bounded for end in run.interval(key) or (None, None)]
            cost = [run.parameters if name == "parameters" else run.cost(name) for name in COST]
            about = [run.name, run.train.get("method"), run.train.get("seen")]
            writer.writerow([*about, *values, *cost, " ".join(run.troubles)])
        for left in board.untrained:
            writer.writerow([left.name, left.method, *[""] * (3 + len(keys) + len(bounds) + len(COST)), left.reason])


def _read_run(out: Path, name: str) -> RunFolder:
    folder = out / "runs" / name
    # Without samples or the reference, metrics.json is of before: DVC removes a stage's outs only when it runs.
    current = (folder / "features").is_dir() and (out / "reference").is_dir()
    found = _read_measured(folder) if current else Measured()
    places = trainings(folder)
    trained = [_read_json(place / "train.json") for place in places]
    if not _are_scores_of(places, found.protocol):
        found = Measured()
    known: dict[str, Any] = {"metrics": found.metrics, "protocol": found.protocol, "failures": read_failures(folder)}
    return RunFolder(name=folder.name, folder=folder, train=trained[0], others=trained[1:], **known)


def _are_scores_of(trainings: Sequence[Path], protocol: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether scores are of all of a run's trainings, and of no others."""
    if len(trainings) == 1:
        return not any(BY_SEED in how for how in protocol.values()) and are_scores_of(trainings[0], protocol)
    seeds = [_read_json(place / "train.json")["params"]["seed"] for place in trainings]
    alone = [of_seed(protocol, seed)[1] for seed in seeds]
    known = {seed for how in protocol.values() for seed in how.get(BY_SEED, {})}
    return known == {str(seed) for seed in seeds} and all(map(are_scores_of, trainings, alone))


def _read_measured(folder: Path) -> Measured:
    return Measured(metrics=_read_json(folder / "metrics.json"), protocol=_read_json(folder / "protocol.json"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run `dvc repro`.") from error
    return content


def _columns(runs: Sequence[Measured], metrics: Sequence[str], extractors: Sequence[str]) -> list[Column]:
    """Return one column per number that any run has; spreads stay with their means."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for key in run.metrics:
            found[key] = found.get(key) or run.protocol.get(key, {})

    def place(key: str) -> tuple[int, int, str]:
        how = found[key]
        return _index(metrics, how.get("metric")), _index(extractors, how.get("extractor")), key

    return [_column(key, found[key]) for key in sorted(found, key=place) if found[key].get("spread") != key]


def _index(names: Sequence[str], name: str | None) -> int:
    return names.index(name) if name in names else len(names)


def _column(key: str, how: Mapping[str, Any]) -> Column:
    of = how.get("extractor") or how.get("split") or ""
    title, better = how.get("title", key), how.get("better")
    return Column(key=key, title=title, of=of, better=better, spread=how.get("spread"), note=how.get("note"))


def _ranked(runs: Sequence[RunFolder], headline: Column | None) -> list[RunFolder]:
    sign = -1 if headline and headline.better == "higher" else 1

    def place(run: RunFolder) -> tuple[bool, float, str]:
        value = run.metric(headline.key) if headline else None
        return value is None, sign * (value or 0.0), run.name

    return sorted(runs, key=place)
