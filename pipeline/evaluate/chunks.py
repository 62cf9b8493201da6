"""An examination, cut into chunks: what extractors see in samples and in real images, and a method's own scores.

Where a chunk begins and ends depends on the settings alone, and what is found in it on nothing outside it. So whoever
examines the chunks, and in whatever order, finds the same, to the bit where the arithmetic is the same.

A chunk is ``evaluate.batch_size`` images, which extractors see at once, or what is left of them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.config import Evaluate
from pipeline.core.batch import Batch
from pipeline.core.world import default_device
from pipeline.data.dataset import Dataset, ImageStore, Split, domains, open_dataset
from pipeline.evaluate.extractor import Extractor, Features
from pipeline.evaluate.extractors import load_all
from pipeline.inference.diagnosis import NotFiniteError
from pipeline.inference.generate import (
    Tally,
    batches,
    drawn_beside,
    has_scores,
    load_fitting,
    sample,
    scores_of,
    shuffled,
)
from pipeline.inference.path import between
from pipeline.inference.scored import WEIGHTS, digest_of
from pipeline.inference.weights import Trained, method_of

logger = logging.getLogger(__name__)

Kind = Literal["samples", "real", "labels", "paths", "scores"]
_FEW = 8  # samples that show whether labels matter
STEP = 1 / 16  # of the way from one latent to another, between the samples of a pair (metrics/path_length.py)


@dataclass(frozen=True)
class Chunk:
    """Some of the images of one kind.

    Attributes:
        kind: samples; real images; a few samples, with two labels each; pairs of samples on latent paths; or test
            images, for the method's own scores.
        first: number of the first one in the seeded order.
        last: number behind the last one.
    """

    kind: Kind
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was found in a chunk.

    Attributes:
        chunk: in which.
        about: of whoever examined it: the protocols of the extractors, by name, and which weights were sampled.
        features: of the images, by extractor.
        redrawn: samples that were not finite at first.
        labelled: whether the method's samples are of the labels that it is given.
        paths: float64 (pairs,), squared distances on latent paths over the square of the step, by extractor.
        scores: of the method's own scores, one for each batch in order.
        spoilt: what is not finite, if something is; nothing else was found then.
    """

    chunk: Chunk
    about: "About"
    features: Mapping[str, Features] = field(default_factory=dict)
    redrawn: int = 0
    labelled: bool = True
    paths: Mapping[str, Tensor] = field(default_factory=dict)
    scores: tuple[Mapping[str, Tensor], ...] = ()
    spoilt: str | None = None


@dataclass(frozen=True, kw_only=True)
class About:
    """Who examines. extractors: their protocols, by name; weights: which ones are sampled, for the protocol."""

    extractors: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is examined.

    Attributes:
        settings: how many images, of which split, in the order of which seed.
        beside: the real images that samples are drawn beside; None: there are no samples.
        real: the real images of which features are wanted; None: of none.
        split: of the images that samples are drawn beside; None: that of the settings.
    """

    settings: Evaluate
    beside: Dataset | None = None
    real: Dataset | None = None
    split: str | None = None

    def chunks(self) -> list[Chunk]:
        """Return all of them, in the order in which they are put together."""
        counts: dict[Kind, int] = {}
        if self.beside:
            counts |= {"samples": self.settings.samples, "labels": min(_FEW, self.settings.samples)}
        if self.real:
            counts |= {"real": len(self.real_rows)}
        if self.beside:
            counts |= {"paths": self.settings.paths, "scores": len(self.scored_rows)}
        size = self.settings.batch_size
        cut = {kind: count if kind == "labels" else size for kind, count in counts.items()}
        return [
            Chunk(kind, first, min(first + cut[kind], count))
            for kind, count in counts.items()
            for first in range(0, count, cut[kind])
        ]

    @cached_property
    def drawn_beside(self) -> Split:
        """The split of real images that samples are drawn beside."""
        assert self.beside is not None
        return self.beside.splits[self.split or self.settings.split]

    @cached_property
    def rows(self) -> Tensor:
        """(samples,) int64: beside which of them."""
        return shuffled(len(self.drawn_beside), self.settings.samples, self.settings.seed)

    @cached_property
    def path_rows(self) -> Tensor:
        """(paths,) int64: beside which of them the samples of each pair."""
        return shuffled(len(self.drawn_beside), self.settings.paths, self.settings.seed)

    @cached_property
    def real_rows(self) -> Tensor:
        """(n,) int64: the real images of which features are wanted."""
        assert self.real is not None
        size = len(self.real.splits[self.settings.split])
        return shuffled(size, min(size, self.settings.reference_samples or size), self.settings.seed)

    @cached_property
    def scored_rows(self) -> Tensor:
        """(n,) int64: the test images of the method's own scores, whatever evaluate.split is: a likelihood of training
        images says little."""
        assert self.beside is not None
        size = len(self.beside.splits["test"])
        return shuffled(size, min(size, self.settings.samples), self.settings.seed)


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Examines chunks, in any order.

    Attributes:
        subject: of which they are.
        extractors: each sees every image.
        trained: the method and its weights, if there are samples; it samples where they are.
        at_a_time: images that the nets take at once, if fewer than the extractors do.
    """

    subject: Subject
    extractors: Sequence[Extractor]
    trained: Trained | None = None
    at_a_time: int | None = None

    @cached_property
    def about(self) -> About:
        """What there is to say of every chunk; reads the weights file once."""
        weights: dict[str, Any] = {}
        if self.trained:
            weights |= {"images_seen": self.trained.seen}
            weights |= {WEIGHTS: digest_of(self.trained.source)} if self.trained.source else {}
        return About(extractors={each.name: each.protocol for each in self.extractors}, weights=weights)

    def examine(self, chunk: Chunk) -> Part:
        """Return what is found in a chunk.

        Samples or scores that are not finite are found, and no error.

        Args:
            chunk: of the subject's.

        Returns:
            The part.

        Raises:
            ValueError: samples are not in [-1, 1].
        """
        known: dict[str, Any] = {"chunk": chunk, "about": self.about}
        try:
            if chunk.kind == "real":
                return Part(features=self._see(self._real(chunk)), **known)
            if chunk.kind == "labels":
                return Part(labelled=self._heeds_labels(chunk), **known)
            if chunk.kind == "paths":
                return Part(paths=self._paths(chunk), **known)
            if chunk.kind == "scores":
                return Part(scores=tuple(self._scores(chunk)), **known)
            tally = Tally()
            return Part(features=self._see(self._samples(chunk, tally)), redrawn=tally.redrawn, **known)
        except NotFiniteError as error:
            return Part(spoilt=error.found, **known)

    def _see(self, images: Tensor) -> dict[str, Features]:
        return {extractor.name: extractor(images) for extractor in self.extractors}

    def _real(self, chunk: Chunk) -> Tensor:
        assert self.subject.real is not None
        rows = self.subject.real_rows[chunk.first : chunk.last]
        return self.subject.real.splits[self.subject.settings.split].images(rows.numpy())

    def _samples(self, chunk: Chunk, tally: Tally) -> Tensor:
        """Sample the chunk; in smaller batches if a GPU has no room for one, which may change last bits."""
        trained, size = self._trained, self._at_once
        while True:
            try:
                counted = Tally()
                images = torch.cat([sample(trained, batch, counted) for batch in self._like(chunk, size)])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size = -(-size // 2)
                logger.warning("there is not the memory for so many samples at once: %d at a time", size)
            else:
                tally.redrawn += counted.redrawn
                return images

    def _paths(self, chunk: Chunk) -> dict[str, Tensor]:
        """Return the distances between the samples of each pair: one at a random place of the way from a latent to
        another, the other a step on."""
        ends: tuple[list[Tensor], list[Tensor]] = ([], [])
        for like in self._like(chunk, self._at_once, self.subject.path_rows):
            noise = like.noise.stream("path")
            place = noise.uniform("place") * (1 - STEP)
            for images, fraction in zip(ends, (place, place + STEP), strict=True):
                at = between(noise, noise.ids + self.subject.settings.paths, fraction)
                images.append(sample(self._trained, replace(like, noise=at, shared={}), Tally()))
        first, second = (self._see(torch.cat(images)) for images in ends)
        return {
            name: (second[name].pooled.double() - first[name].pooled.double()).square().sum(1) / STEP**2
            for name in first
        }

    def _heeds_labels(self, chunk: Chunk) -> bool:
        """Tell whether the method's samples are of the labels that it is given: others make other images. Else
        labels.npy only says beside which images they were drawn."""
        trained = self._trained
        classes = trained.spec.classes
        if classes < 2:
            return False
        like = next(self._like(chunk, min(len(chunk), self._at_once)))
        others = replace(like, labels=(like.labels + 1) % classes, shared={})
        with torch.inference_mode():
            first, second = (trained.method.sample(trained.nets, batch) for batch in (like, others))
        return not torch.equal(first, second)

    def _scores(self, chunk: Chunk) -> Iterator[Mapping[str, Tensor]]:
        if has_scores(self._trained):
            assert self.subject.beside is not None
            rows, split = self.subject.scored_rows, self.subject.beside.splits["test"]
            paired = "pair" in self._trained.method.needs
            other = self.subject.real.splits["test"] if paired and self.subject.real else None
            plan = {"other": other, "paired": paired, **self._plan(chunk)}
            real = batches(split, rows, batch_size=self._at_once, **plan)
            yield from scores_of(self._trained, real)

    def _like(self, chunk: Chunk, size: int, rows: Tensor | None = None) -> Iterator[Batch]:
        """Yield what samples are drawn beside, ``size`` at a time; rows: other images than those of the samples."""
        subject = self.subject
        plan = {"truncation": subject.settings.truncation, **self._plan(chunk)}
        return batches(subject.drawn_beside, subject.rows if rows is None else rows, batch_size=size, **plan)

    def _plan(self, chunk: Chunk) -> dict[str, Any]:
        numbers = slice(chunk.first, chunk.last)
        return {"seed": self.subject.settings.seed, "device": self._trained.device, "numbers": numbers}

    @property
    def _trained(self) -> Trained:
        assert self.trained is not None
        return self.trained

    @property
    def _at_once(self) -> int:
        return min(self.subject.settings.batch_size, self.at_a_time or self.subject.settings.batch_size)


@dataclass(frozen=True, kw_only=True)
class Materials:
    """The files of an examination, from which any process that has them makes an examiner.

    Attributes:
        data: the folder of the dataset.
        prepared: what ``prepare_extractors`` wrote.
        settings: which extractors see how many images.
        weights: the run's, to be sampled; None: real images are examined alone.
        classes: the two domains of a run that translates, else None; of real images alone there are none.
        at_a_time: images that the nets take at once, if fewer than the extractors do (``settings.batch_size``).
    """

    data: Path
    prepared: Path
    settings: Evaluate
    weights: Path | None = None
    classes: Sequence[str] | None = None
    at_a_time: int | None = None

    def subject(self, elsewhere: Callable[[str], ImageStore] | None = None) -> Subject:
        """Open the data.

        Args:
            elsewhere: where a split's images are, by its name, if not in the folder.

        Returns:
            What is examined.

        Raises:
            UserError: the folder holds no readable dataset, or the weights are damaged.
        """
        dataset = open_dataset(self.data, elsewhere)
        if self.weights is None:
            return Subject(settings=self.settings, real=dataset)
        method = method_of(self.weights)
        first, second = domains(dataset, self.classes, method.views)
        split = drawn_beside(method, self.settings.split)
        return Subject(settings=self.settings, beside=first, real=second, split=split)

    def examiner(self, device: torch.device, elsewhere: Callable[[str], ImageStore] | None = None) -> Examiner:
        """Open the data, and load the weights and the extractors.

        Args:
            device: where they go.
            elsewhere: as for ``subject``.

        Returns:
            Who examines the subject's chunks.

        Raises:
            UserError: a file is missing, damaged, or of other images.
        """
        subject, trained = self.subject(elsewhere), None
        if self.weights is not None:
            assert subject.beside is not None
            trained = load_fitting(self.weights, subject.beside.spec, device)
        extractors = load_all(self.settings, self.prepared, device)
        examiner = Examiner(subject=subject, extractors=extractors, trained=trained, at_a_time=self.at_a_time)
        _ = examiner.about  # hashes the weights file while it is there
        return examiner


def examine_here(materials: Materials, chunks: Sequence[Chunk], device: torch.device | None = None) -> Iterator[Part]:
    """Examine chunks in this process.

    Args:
        materials: from which the examiner is made.
        chunks: of the subject's.
        device: where; None: on this process's GPU if it has one.

    Yields:
        What was found in each, in order.
    """
    yield from map(materials.examiner(device or default_device()).examine, chunks)
