"""What is kept of a set of images so that any metric can be computed of it, now or later.

    labels.npy                     int64 (n,)
    <extractor>/features.npy       float32 (n, d)
    <extractor>/logits.npy         float32 (n, k)
    <extractor>/paths.npy          float64 (p,), squared distances between the samples of a pair (evaluate.paths)
    <extractor>/mean.npy           float64 (d,), covariance.npy float64 (d, d), and factor.npy float64 (d, r), the
                                   covariance's (Statistics.factor): of a reference, which many runs share
    scores.json                    of a run: values, the means of its method's own scores; errors, their standard
                                   errors; images, of which they are; or refused: why there are none
    reference/                     of a run that translates: the feature set of the domain into which it translates
    protocol.json                  images: split, count, seed, digest of the data ...; extractors: weights, resize ...;
                                   refused: why a run's samples cannot be scored, then without labels and arrays

out/reference is such a folder, of real images; out/runs/<run>/features is one, of a run's samples. Arrays are
memory-mapped: what a metric does not touch is not read.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from pipeline.data.dataset import save_array
from pipeline.errors import UserError
from pipeline.evaluate.extractor import Features
from pipeline.evaluate.neighbours import Overlap, Points, nearest, overlap
from pipeline.files import write_json

TARGET = "reference"  # a folder in a translating run's features
NEAREST = 5  # as many as any metric looks at
_CHUNK = 2048  # of rows: faster than larger ones, whose memory is new each time
_LARGE = 5e9  # products of numbers in a product of matrices: a tenth of a second of one core


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The moments of n features. mean: (d,); covariance: (d, d), unbiased (n - 1). All float64.

    factor: (d, r), where it is at hand: covariance = factor factor^T, its columns orthogonal and the longest first, r
    the numerical rank.
    root: (d, n - 1), of fewer images than dimensions: covariance = root root^T too, but nothing more is known of it.
    """

    mean: Tensor
    covariance: Tensor
    factor: Tensor | None = None
    root: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """Compute the moments in float64.

        Args:
            features: (n, d), n >= 2.

        Returns:
            Mean and covariance, and the root of one that is singular for want of images.

        Raises:
            ValueError: other shapes, NaN or infinity.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features must be (n >= 2, d), got {tuple(features.shape)}")
        mean = torch.stack([part.sum(0, dtype=torch.float64) for part in features.split(_CHUNK)]).sum(0) / len(features)
        if not torch.isfinite(mean).all():  # a sum is finite if and only if what is summed is
            raise ValueError("features are not all finite")
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        centred = torch.empty(min(_CHUNK, len(features)), len(mean), dtype=torch.float64)
        for part in features.split(_CHUNK):  # a float64 copy of 50,000 x 2,048 features would take 800 MB
            covariance += gram(torch.sub(part, mean, out=centred[: len(part)]))
        covariance /= len(features) - 1
        root = None if len(features) > len(mean) else _without_mean(features.double() - mean)
        return cls(mean=mean, covariance=covariance, root=root)

    def factorized(self) -> "Statistics":
        """Return them with their factor; the costly half of a Frechet distance."""
        if self.factor is not None:
            return self
        if not self.finite:
            raise ValueError("statistics are not all finite")
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        return replace(self, factor=(vectors[:, kept] * values[kept].sqrt()).flip(1))

    @property
    def finite(self) -> bool:
        """Tell whether neither has NaN or infinity."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.covariance).all())


def gram(x: Tensor) -> Tensor:
    """Return x^T x (d, d) of float64 (n, d), by numpy: half the work of a product of two matrices.

    Threads of numpy's OpenBLAS and of torch that compute in turn find each other's still on the cores: a small product
    by one thread is sooner done, with what torch computes next (findings/numpy-and-torch-threads-collide.sh). Of two
    threads of Python that call this at once, the limit of the one may stay in force after both.
    """
    array = x.numpy()
    few = array.size * array.shape[1] < _LARGE
    with _openblas().limit(limits=1) if few else nullcontext():
        return torch.from_numpy(array.T @ array)


@cache
def _openblas() -> ThreadpoolController:
    """Return the control of its threads; of none where numpy has another library (Accelerate on macOS)."""
    return ThreadpoolController().select(internal_api="openblas")


def _without_mean(centred: Tensor) -> Tensor:
    """Return (d, n - 1): the rows turned so that the first is their sum, which is zero, and goes."""
    count = len(centred)
    normal = torch.full((count,), count**-0.5, dtype=torch.float64)
    normal[0] -= 1
    turned = centred - 2 / normal.square().sum() * normal[:, None] * (normal @ centred)
    return turned[1:].T / (count - 1) ** 0.5


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """All that a metric may ask of n images, seen through one extractor.

    features: (n, d) float32; logits: (n, k) float32; labels: (n,) int64.
    seed: by which the images were drawn or ordered; also for what a metric draws.
    distinct: how many images come before the first that is a copy (a translation of the same image again).
    stored: the statistics, where they are at hand. scores: a method's own scores, by name; score_errors: the standard
    errors of those that have one.
    labelled: whether the labels are the images' own: not, where a method samples without regard to them.
    paths: (p,) float64, squared distances between pairs of samples on the way from one latent to another, over the
    square of their distance on the way; none where they were not asked for.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    seed: int
    distinct: int
    stored: Statistics | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    score_errors: Mapping[str, float] = field(default_factory=dict)
    labelled: bool = True
    paths: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    _overlaps: dict[int, tuple["FeatureSet", Overlap]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def statistics(self) -> Statistics:
        """Return mean and covariance of the features, computed here if they were not stored."""
        return self.stored or Statistics.of(self.features)

    @property
    def distinct_features(self) -> Tensor:
        """Return the features of the images that are no copies."""
        return self.features[: self.distinct]

    @cached_property
    def nearest(self) -> Tensor:
        """Return (distinct, 5) squared distances, ascending: from each distinct image to its nearest others; fewer
        columns where there are no five others. Computed once for all metrics."""
        return nearest(self.points, min(NEAREST, self.distinct - 1))[0]

    @cached_property
    def points(self) -> Points:
        """Return the distinct features as distances need them."""
        return Points.of(self.distinct_features)

    def overlap(self, real: "FeatureSet") -> Overlap:
        """Return how the distinct samples lie in the balls of real images (as a) that reach their nearest ones, and the
        other way (as b). Computed once for all metrics."""
        if id(real) not in self._overlaps:
            b = Points.of(self.distinct_features, real.points.centre)
            self._overlaps[id(real)] = real, overlap(real.points, b, real.nearest, self.nearest)
        return self._overlaps[id(real)][1]

    @classmethod
    def of_scores(cls, scores: Mapping[str, float], errors: Mapping[str, float], seed: int) -> "FeatureSet":
        """Return a method's own scores and their errors, which come without features."""
        none, no_labels = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        own: dict[str, Any] = {"scores": scores, "score_errors": errors}
        return cls(features=none, logits=none, labels=no_labels, seed=seed, distinct=0, **own)

    def without(self, rows: slice) -> "FeatureSet":
        """Return the distinct images but for a contiguous part of them."""
        kept = torch.cat([torch.arange(rows.start), torch.arange(rows.stop, self.distinct)])
        features, logits, labels = self.features[kept], self.logits[kept], self.labels[kept]
        return replace(self, features=features, logits=logits, labels=labels, distinct=len(kept), stored=None)

    def part(self, rows: slice) -> "FeatureSet":
        """Return a contiguous part of the images, without copying."""
        features, logits, labels = self.features[rows], self.logits[rows], self.labels[rows]
        return replace(
            self, features=features, logits=logits, labels=labels, distinct=min(self.distinct, len(labels)), stored=None
        )


def write_set(
    folder: Path,
    labels: Tensor,
    found: Mapping[str, Features],
    protocol: Mapping[str, Any],
    *,
    statistics: bool,
    paths: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a feature set into a folder that the caller completes.

    Args:
        folder: an existing folder.
        labels: (n,) int64, of the images.
        found: the features by extractor.
        protocol: images, and extractors by name.
        statistics: whether to keep mean, covariance and its factor too, which a single image does not have.
        paths: squared distances on latent paths, by extractor, where they were asked for.
    """
    save_array(folder / "labels.npy", labels.numpy())
    for name, features in found.items():
        own = folder / name
        own.mkdir()
        save_array(own / "features.npy", features.pooled.numpy())
        save_array(own / "logits.npy", features.logits.numpy())
        if paths and name in paths:
            save_array(own / "paths.npy", paths[name].numpy())
        if statistics and len(features.pooled) > 1:
            moments = Statistics.of(features.pooled).factorized()
            assert moments.factor is not None
            save_array(own / "mean.npy", moments.mean.numpy())
            save_array(own / "covariance.npy", moments.covariance.numpy())
            save_array(own / "factor.npy", moments.factor.numpy())
    write_json(folder / "protocol.json", protocol)


def read_protocol(folder: Path, stage: str) -> dict[str, Any]:
    """Read how a folder's features were made.

    Args:
        folder: a feature set.
        stage: what makes it, for the message.

    Returns:
        The content of protocol.json; refused is None where the images can be scored.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        protocol: dict[str, Any] = json.loads((folder / "protocol.json").read_text())
        known = {"images": protocol["images"], "extractors": protocol["extractors"]}
        return known | {"refused": protocol.get("refused")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder / "protocol.json", error, stage) from error


def read_scores(folder: Path, stage: str) -> dict[str, Any]:
    """Read a method's own scores.

    Args:
        folder: a run's feature set.
        stage: what makes it, for the message.

    Returns:
        values, by name; errors, by name, of those that have one; images: of which they are; refused: why there are
        none, or None.

    Raises:
        UserError: they are missing or damaged.
    """
    try:
        content = json.loads((folder / "scores.json").read_text())
        known = {"values": content["values"], "errors": content.get("errors", {}), "images": content["images"]}
        return known | {"refused": content.get("refused")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder / "scores.json", error, stage) from error


def read_set(folder: Path, extractor: str, stage: str) -> FeatureSet:
    """Open what one extractor saw; the arrays are memory-mapped.

    Args:
        folder: a feature set.
        extractor: its name.
        stage: what makes the folder, for the message.

    Returns:
        The features, logits and labels, and the statistics if they were kept.

    Raises:
        UserError: a file is missing or damaged, or the files are of different numbers of images.
    """
    images = read_protocol(folder, stage)["images"]
    own = folder / extractor
    try:
        features, logits, labels = (
            _open(path) for path in (own / "features.npy", own / "logits.npy", folder / "labels.npy")
        )
        if not len(features) == len(logits) == len(labels):
            raise ValueError("features, logits and labels differ in number")
        stored = None
        if (own / "mean.npy").exists():
            factor = _open(own / "factor.npy") if (own / "factor.npy").exists() else None
            mean, covariance = _open(own / "mean.npy"), _open(own / "covariance.npy")
            stored = Statistics(mean=mean, covariance=covariance, factor=factor)
        known: dict[str, Any] = {"paths": _open(own / "paths.npy")} if (own / "paths.npy").exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(own, error, stage) from error
    known |= {"seed": images["seed"], "distinct": images.get("distinct", len(labels))}
    known["labelled"] = images.get("labelled", True)
    return FeatureSet(features=features, logits=logits, labels=labels, stored=stored, **known)


def _open(path: Path) -> Tensor:
    # Copy-on-write: nothing is copied, and torch takes no read-only memory without a warning.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _unreadable(path: Path, error: Exception, stage: str) -> UserError:
    return UserError(f"{path}: not readable ({error}). Run `dvc repro {stage}` to make it.")
