"""Scores of a run with several seeds: the mean over its trainings, and an interval of it over trainings.

The interval is Student's, of k trainings with the standard deviation s between them: mean -+ t_{k - 1} s / sqrt(k).
What another draw of samples would change is in it, as every training's samples are its own.

An entry of protocol.json is the first seed's, with the interval over seeds in the place of that over samples, and in
addition by_seed: by seed, the entry of that training alone, with its value (``scored.of_seed``). A number that one of
the trainings lacks has no mean; its entry says of which seed, and why.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.config import Evaluate
from pipeline.evaluate.interval import over_trainings
from pipeline.evaluate.scoring import REDRAWN, Scores, score_run
from pipeline.inference.scored import BY_SEED, VALUE


def score_trainings(
    features: Mapping[int, Path], reference: Path, settings: Evaluate, statistics: Path | None = None
) -> Scores:
    """Score the trainings of a run, as ``score_run`` does each.

    Args:
        features: by seed, what the stage ``generate`` kept of its training.
        reference: what the stage ``reference`` kept of the real images.
        settings: which metrics and extractors.
        statistics: the folder where those of ``settings.statistics`` were prepared.

    Returns:
        The scores of the training, if there is one; else their means.

    Raises:
        UserError: as ``score_run``.
    """
    scores = {seed: score_run(folder, reference, settings, statistics) for seed, folder in features.items()}
    return average(scores) if len(scores) > 1 else next(iter(scores.values()))


def average(scores: Mapping[int, Scores]) -> Scores:
    """Return the means of several trainings' scores, at least two, by seed."""
    found = Scores()
    for key in dict.fromkeys(key for one in scores.values() for key in one.protocol):
        entries = {seed: one.protocol[key] for seed, one in scores.items() if key in one.protocol}
        values = {seed: one.metrics[key] for seed, one in scores.items() if key in one.metrics}
        if key == REDRAWN:  # only where samples were drawn anew
            values = {seed: values.get(seed, 0.0) for seed in scores}
        first = next(iter(entries.values()))
        about: dict[str, Any] = {name: value for name, value in first.items() if name != "interval"}
        if len(values) == len(scores):
            found.metrics[key] = fmean(values.values())
            about["interval"] = asdict(over_trainings(list(values.values())))
        else:
            about |= _why_missing(scores, key)
        known = {seed: {VALUE: value} for seed, value in values.items()}
        about[BY_SEED] = {str(seed): {**how, **known.get(seed, {})} for seed, how in entries.items()}
        found.protocol[key] = about
    return found


def _why_missing(scores: Mapping[int, Scores], key: str) -> dict[str, str]:
    """Say why a number is missing, by the words refused and lacks; of which seeds, unless it is the same of all."""
    why: dict[str, dict[str, list[int]]] = {}
    for seed, one in scores.items():
        if key not in one.metrics:
            how = one.protocol.get(key, {})
            word = "refused" if "refused" in how else "lacks"
            why.setdefault(word, {}).setdefault(how.get(word, "it has no such number."), []).append(seed)

    def told(reason: str, seeds: list[int]) -> str:
        named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        return reason if len(seeds) == len(scores) else f"{named}: {reason}"

    return {word: " ".join(told(reason, seeds) for reason, seeds in found.items()) for word, found in why.items()}
