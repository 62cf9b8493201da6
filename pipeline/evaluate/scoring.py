"""From kept features to metrics.json and protocol.json: numbers, and how each one was made; no model is needed.

An entry of protocol.json says, for one number: metric, title, better; spread: the key of its standard deviation, if
there is one; interval: low, high and by what (interval.py); settings: the metric's; the extractor with its weights'
hash and resize; generated (or, where real images take the samples' place, real): what was scored; reference: the real
images that it was compared with, or the file of others' statistics that took their place (evaluate.statistics). Where
metrics.json lacks a number, its entry says why; refused: what was to be scored is at fault; lacks: there are too few
images, or the metric does not fit them or the extractor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Evaluate
from pipeline.errors import UserError
from pipeline.evaluate import metrics, own_scores
from pipeline.evaluate.extractor import Extractor, extract
from pipeline.evaluate.feature_set import TARGET, FeatureSet, read_protocol, read_scores, read_set
from pipeline.evaluate.interval import intervals
from pipeline.evaluate.metric import Metric, Quantity, TooFewError, UnfitError
from pipeline.evaluate.prepared import imported, read_hashes
from pipeline.evaluate.statistics_files import import_statistics

GENERATE, REFERENCE = "generate", "reference"  # the stages that make what is read here
REDRAWN = "redrawn_samples"


@dataclass(frozen=True)
class Scores:
    """The numbers by key, and by the same keys how each was made."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(
        self, name: str, metric: Metric, suffix: str, samples: FeatureSet, real: FeatureSet, how: Mapping[str, Any]
    ) -> None:
        """Compute a metric and keep what it reports as ``<quantity>_<suffix>``.

        Args:
            name: the metric's, for the protocol.
            metric: what to compute.
            suffix: the extractor's name, or the split's.
            samples: what is scored.
            real: what it is compared with.
            how: the rest of the protocol.
        """
        try:
            found = metric.compute(samples, real)
        except TooFewError as error:
            self.leave_out(name, metric, suffix, {**how, "lacks": _too_few(error, of_real="real" in how)})
            return
        except UnfitError as error:
            self.leave_out(name, metric, suffix, {**how, "lacks": str(error)})
            return
        around = intervals(metric, dict(found), samples, real)
        for quantity, score in found.items():
            key = f"{quantity}_{suffix}"
            about = {"metric": name, **asdict(metric.describe(quantity)), **how}
            about |= {"settings": dict(metric.settings)} if metric.settings else {}
            about |= {"interval": asdict(around[quantity])} if quantity in around else {}
            self.metrics[key], self.protocol[key] = score.value, about
            if score.spread is not None:
                about["spread"] = f"{key}_std"
                self.metrics[f"{key}_std"], self.protocol[f"{key}_std"] = score.spread, about

    def leave_out(self, name: str, metric: Metric, suffix: str, how: Mapping[str, Any]) -> None:
        """Keep why a metric's numbers are missing: ``refused`` or ``lacks`` in ``how``; all else is as in ``add``."""
        for quantity in metric.quantities:
            self.protocol[f"{quantity}_{suffix}"] = {"metric": name, **asdict(metric.describe(quantity)), **how}


def score_run(features: Path, reference: Path, settings: Evaluate, statistics: Path | None = None) -> Scores:
    """Score a run's samples by every metric and extractor of the settings, and add the method's own scores.

    Args:
        features: what the stage ``generate`` kept of the run.
        reference: what the stage ``reference`` kept of the real images; a run that translates is compared with the
            domain that lies in its own features instead.
        settings: which metrics and extractors.
        statistics: the folder where those of ``settings.statistics`` were prepared; a run that translates is not
            compared with them.

    Returns:
        The scores by key.

    Raises:
        UserError: features are missing, damaged, or of other images or another extractor than the reference's.
    """
    made = read_protocol(features, GENERATE)
    target, stage = (features / TARGET, GENERATE) if (features / TARGET).is_dir() else (reference, REFERENCE)
    against = read_protocol(target, stage)
    scores = Scores()
    for extractor in settings.extractor_names:
        _refuse_mismatch(extractor, made, against, features, target)
        if made["refused"]:
            for name, metric in _chosen(settings):
                scores.leave_out(name, metric, extractor, {"extractor": extractor, "refused": made["refused"]})
            continue
        samples, real = read_set(features, extractor, GENERATE), read_set(target, extractor, stage)
        theirs = _imported(extractor, settings, statistics, real) if target == reference else None
        for name, metric in _chosen(settings):
            how = {**made["extractors"][extractor], "generated": made["images"]}
            if theirs and "statistics" in metric.needs:
                scores.add(name, metric, extractor, samples, theirs.real, {**how, **theirs.how})
                continue
            how |= {"reference": against["images"]} if metric.compares else {}
            scores.add(name, metric, extractor, samples, real, how)
    if not made["refused"]:
        _add_own(scores, read_scores(features, GENERATE))
    if redrawn := made["images"].get("redrawn"):
        about = Quantity(title="redrawn samples", better=None)
        scores.metrics[REDRAWN] = redrawn
        note = "not finite at first and drawn anew with further random numbers; the scores are of what came of it"
        scores.protocol[REDRAWN] = {"metric": REDRAWN, **asdict(about), "note": note, "generated": made["images"]}
    return scores


def score_real(reference: Path, settings: Evaluate, statistics: Path | None = None) -> Scores:
    """Score real images in the place of samples: a scale to read the runs' numbers by.

    As many are taken as a run has samples (``settings.samples``), or as many as there are; for a metric that compares,
    at most half, which are compared with all the others, or with ``settings.statistics``.

    Args:
        reference: what the stage ``reference`` kept.
        settings: which metrics and extractors, and the number of samples.
        statistics: the folder where those of ``settings.statistics`` were prepared.

    Returns:
        The scores by key, as of a run; the method's own have no counterpart.

    Raises:
        UserError: the reference is missing, damaged, or made without one of the extractors.
    """
    protocol = read_protocol(reference, REFERENCE)
    images, scores = protocol["images"], Scores()
    for extractor in settings.extractor_names:
        _refuse_mismatch(extractor, protocol, protocol, reference, reference)
        whole = read_set(reference, extractor, REFERENCE)
        theirs = _imported(extractor, settings, statistics, whole)
        for name, metric in _chosen(settings):
            if theirs and "statistics" in metric.needs:
                count = min(settings.samples, len(whole))
                how = {**protocol["extractors"][extractor], "real": images | {"count": count}, **theirs.how}
                scores.add(name, metric, extractor, whole.part(slice(count)), theirs.real, how)
                continue
            count = min(settings.samples, len(whole) // 2 if metric.compares else len(whole))
            samples, others = whole.part(slice(count)), whole.part(slice(count, None))
            how = {**protocol["extractors"][extractor], "real": images | {"count": count}}
            how |= {"reference": images | {"count": len(others)}} if metric.compares else {}
            scores.add(name, metric, extractor, samples, others, how)
    return scores


def score_images(
    samples: Tensor, real: Tensor, extractor: Extractor, names: Sequence[str] = ("fid",), *, batch_size: int = 64
) -> dict[str, float]:
    """Score images in memory, without the files of a run.

    Args:
        samples: (n, c, h, w) uint8, in random order.
        real: (m, c, h, w) uint8, what they are compared with.
        extractor: what sees the images.
        names: of the metrics.
        batch_size: images that the extractor sees at once.

    Returns:
        The values by key, such as "fid_efficientnet_lite0", spreads left out. They compare only with values of as many
        images.
    """

    def seen(images: Tensor) -> FeatureSet:
        found = extract([extractor], images.split(batch_size))[extractor.name]
        labels = torch.zeros(len(images), dtype=torch.int64)
        return FeatureSet(features=found.pooled, logits=found.logits, labels=labels, seed=0, distinct=len(images))

    sets = seen(samples), seen(real)
    found = [metrics.load(name).compute(*sets) for name in names]
    return {f"{quantity}_{extractor.name}": score.value for scores in found for quantity, score in scores.items()}


@dataclass(frozen=True, kw_only=True)
class _Imported:
    """Others' statistics in the place of the real images'. real: with them; how: of them, for the protocol."""

    real: FeatureSet
    how: Mapping[str, Any]


def _imported(extractor: str, settings: Evaluate, statistics: Path | None, real: FeatureSet) -> _Imported | None:
    """Return the statistics that params.yaml names for an extractor; UserError if their dimensions are others."""
    file = settings.statistics.get(extractor)
    if file is None:
        return None
    if statistics is None:
        raise ValueError(f"statistics of others for {extractor} need the folder where they were prepared")
    found = import_statistics(imported(statistics, extractor))
    if len(found.mean) != real.features.shape[1]:
        raise UserError(
            f"params.yaml: evaluate.statistics: {file} is of {len(found.mean)} features, but {extractor} has "
            f"{real.features.shape[1]}. Name a file that was made with {extractor}, or remove this."
        )
    how = {"reference": {"statistics": file, "sha256": read_hashes(statistics)[file]}}
    note = f"compared with the imported statistics {file}, which do not say how they were made"
    return _Imported(real=replace(real, stored=found), how=how | {"note": note})


def _add_own(scores: Scores, found: Mapping[str, Any]) -> None:
    """Add a method's own scores."""
    images = found["images"]
    own = FeatureSet.of_scores(found["values"], found["errors"], images["seed"])
    scores.add(own_scores.NAME, own_scores.METRIC, images["split"], own, own, images)
    if found["refused"]:
        scores.protocol[own_scores.NAME] = {"metric": own_scores.NAME, "title": "own scores", "better": None, **images}
        scores.protocol[own_scores.NAME]["refused"] = found["refused"]


def _too_few(error: TooFewError, *, of_real: bool) -> str:
    """Say how many images there are, how many are needed, and what to change; of_real: real images take the samples'
    place."""
    what = "real images to compare with" if error.real else "real images" if of_real else "samples"
    remedy = "Add images to the data (data.path)"
    if error.real or of_real:
        remedy += ", lower data.test_fraction, or raise evaluate.reference_samples where that is what limits them."
    else:
        remedy += ", or raise evaluate.samples where that is what limits them."
    return f"{error.have} {what}; at least {error.need} are needed. {remedy}"


def _chosen(settings: Evaluate) -> list[tuple[str, Metric]]:
    return [(name, metrics.load(name)) for name in settings.metrics]


def _refuse_mismatch(
    extractor: str, made: Mapping[str, Any], against: Mapping[str, Any], features: Path, reference: Path
) -> None:
    """Raise UserError unless both sides come from one extractor and one dataset."""
    for folder, protocol in ((features, made), (reference, against)):
        if extractor not in protocol["extractors"]:
            raise UserError(f"{folder}: made without the extractor '{extractor}'. Run `dvc repro` to make it again.")
    same_extractor = made["extractors"][extractor] == against["extractors"][extractor]
    if not same_extractor or made["images"]["digest"] != against["images"]["digest"]:
        raise UserError(f"{reference}: made from other images or with another extractor. Run `dvc repro reference`.")
