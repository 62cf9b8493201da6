"""What a trial is judged by: scores of its averaged weights on real images, by a protocol cheaper than the report's.

An objective is named as in params.yaml: a score of the method's own ("elbo_bits_per_dim"), a metric's number and an
extractor ("fid_efficientnet_lite0"), or "seconds" of training. What is shown has the protocol in its name
("elbo_bits_per_dim_test500"), as it compares with no number of another one.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Evaluate, Search
from pipeline.core.world import default_device
from pipeline.data.dataset import Dataset, domains
from pipeline.data.views import View
from pipeline.errors import UserError, nearest
from pipeline.evaluate import metrics, own_scores
from pipeline.evaluate.extractor import Extractor, Features, extract
from pipeline.evaluate.extractors import load_one
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Better
from pipeline.inference.generate import batches, mean_scores, samples, scores_of, shuffled
from pipeline.inference.weights import Trained

SECONDS = "seconds"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number.

    Attributes:
        name: as in params.yaml.
        better: which way.
        title: for people.
        metric: the file of pipeline/evaluate/metrics, if it is one's.
        extractor: as evaluate.extractors has it, if there is one.
        quantity: of the metric.
    """

    name: str
    better: Better
    title: str
    metric: str | None = None
    extractor: str | None = None
    quantity: str | None = None

    def shown(self, search: Search) -> str:
        """Return the name with its protocol: which real images, and how many; and of how many samples."""
        if self.name == SECONDS:
            return self.name
        split, count = search.split, search.samples
        if self.metric is None:
            return f"{self.name}_{split}{count}"
        compares = metrics.load(self.metric).compares
        return f"{self.name}_{count}" + (f"_{split}{search.reference_samples}" if compares else "")


def find(name: str, settings: Evaluate, key: str) -> Objective:
    """Return the objective of a name.

    Args:
        name: as in params.yaml.
        settings: say which extractors there are.
        key: where the name stands, for the message.

    Returns:
        The objective.

    Raises:
        UserError: there is none of that name, or neither more nor less of it is better.
    """
    known = {objective.name: objective for objective in _all(settings)}
    if name in known:
        return known[name]
    neutral = [f"{quantity}_{file}" for file in settings.extractor_names for quantity in _neutral()]
    if name in neutral:
        raise UserError(f"{key}: of {name} neither more nor less is better. {nearest(name, known)}")
    raise UserError(f"{key}: there is no '{name}'. {nearest(name, known)}")


def _all(settings: Evaluate) -> list[Objective]:
    found = [Objective(name=SECONDS, better="lower", title="seconds of training")]
    for name, quantity in own_scores.METRIC.quantities.items():
        if quantity.better:
            found.append(Objective(name=name, better=quantity.better, title=quantity.title))
    for file in metrics.names():
        for name, quantity in metrics.load(file).quantities.items():
            for extractor, short in zip(settings.extractors, settings.extractor_names, strict=True):
                if quantity.better:
                    about = {"metric": file, "extractor": extractor, "quantity": name}
                    title = f"{quantity.title} ({short})"
                    found.append(Objective(name=f"{name}_{short}", better=quantity.better, title=title, **about))
    return found


def _neutral() -> list[str]:
    return [
        name
        for file in metrics.names()
        for name, quantity in metrics.load(file).quantities.items()
        if not quantity.better
    ]


@dataclass(frozen=True)
class Judge:
    """Scores models by a search's objectives; the real images are seen by the extractors once per process.

    Attributes:
        search: says how many of which images.
        objectives: of the search.
        dataset: the real images.
        classes: the two domains of a run that translates, else None.
        settings: of evaluate, for the extractors.
        prepared: out/extractors.
        at_a_time: images that the nets take at once.
        views: domains besides classes that the method takes.
    """

    search: Search
    objectives: Sequence[Objective]
    dataset: Dataset
    classes: Sequence[str] | None
    settings: Evaluate
    prepared: Path
    at_a_time: int
    views: Mapping[str, View] = field(default_factory=dict)

    def score(self, trained: Trained, seconds: float) -> dict[str, float]:
        """Score a model by every objective.

        Args:
            trained: its averaged weights.
            seconds: that its training took.

        Returns:
            The values by objective; NaN where the method gives none.

        Raises:
            NotFiniteError: samples or scores are not finite.
        """
        found = {SECONDS: seconds}
        if any(objective.metric is None and objective.name != SECONDS for objective in self.objectives):
            found |= self._own(trained)
        found |= self._measured(trained)
        return {objective.name: found.get(objective.name, math.nan) for objective in self.objectives}

    def _own(self, trained: Trained) -> dict[str, float]:
        first, second = domains(self.dataset, self.classes, self.views)
        split = first.splits[self.search.split]
        rows = shuffled(len(split), min(len(split), self.search.samples), self.search.seed)
        plan: dict[str, Any] = {"seed": self.search.seed, "batch_size": self.at_a_time}
        if second and "pair" in trained.method.needs:
            plan |= {"other": second.splits[self.search.split], "paired": True}
        means = mean_scores(scores_of(trained, batches(split, rows, device=trained.device, **plan)))
        return {name: mean.value for name, mean in means.items()}

    def _measured(self, trained: Trained) -> dict[str, float]:
        chosen = [objective for objective in self.objectives if objective.metric is not None]
        if not chosen:
            return {}
        split = domains(self.dataset, self.classes, self.views)[0].splits[self.search.split]
        rows = shuffled(len(split), self.search.samples, self.search.seed)
        plan: dict[str, Any] = {"seed": self.search.seed, "batch_size": self.at_a_time, "device": trained.device}
        like = batches(split, rows, truncation=self.settings.truncation, **plan)
        images = torch.cat(list(samples(trained, like)))
        labels = split.labels_of(rows.numpy())
        sets: dict[str, FeatureSet] = {}
        found: dict[str, float] = {}
        for objective in chosen:
            extractor = self._extractors[str(objective.extractor)]
            if extractor.name not in sets:
                seen = extract([extractor], images.split(self.settings.batch_size))[extractor.name]
                sets[extractor.name] = self._set(seen, labels)
            metric = metrics.load(str(objective.metric))
            scores = metric.compute(sets[extractor.name], self._real[extractor.name])
            found[objective.name] = scores[str(objective.quantity)].value
        return found

    def _set(self, seen: Features, labels: torch.Tensor) -> FeatureSet:
        return FeatureSet(
            features=seen.pooled, logits=seen.logits, labels=labels, seed=self.search.seed, distinct=len(labels)
        )

    @cached_property
    def _extractors(self) -> Mapping[str, Extractor]:
        names = {objective.extractor for objective in self.objectives if objective.extractor}
        return {name: load_one(name, self.settings, self.prepared, default_device()) for name in sorted(names)}

    @cached_property
    def _real(self) -> Mapping[str, FeatureSet]:
        first, second = domains(self.dataset, self.classes, self.views)
        split = (second or first).splits[self.search.split]
        rows = shuffled(len(split), min(len(split), self.search.reference_samples), self.search.seed)
        parts = [split.images(part.numpy()) for part in rows.split(self.settings.batch_size)]
        seen = extract(self._extractors.values(), parts)
        return {name: self._set(features, split.labels_of(rows.numpy())) for name, features in seen.items()}


def protocol(search: Search, objectives: Sequence[Objective], settings: Evaluate) -> str:
    """Return a hash of all that decides a value besides the weights, the data and the code."""
    about = [asdict(objective) for objective in objectives]
    kept = (search.samples, search.reference_samples, search.split, search.seed, settings.truncation)
    return hashlib.sha256(json.dumps([about, kept]).encode()).hexdigest()[:16]
