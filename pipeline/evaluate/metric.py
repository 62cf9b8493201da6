"""The contract of a metric: what it needs to know of images, which way is better, and a pure function.

A metric is one file of pipeline/evaluate/metrics, named as params.yaml names it, that defines ``METRIC``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet

Need = Literal["statistics", "features", "logits", "labels", "paths", "model"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Score:
    """A measured value.

    Attributes:
        value: the number.
        spread: a standard deviation that the metric's definition names, such as that over splits.
        error: the standard error over samples, where the metric finds it itself (``Metric.interval`` "own").
        error_by: how: "jackknife", of PARTS parts; "normal", a mean's, in closed form; or "halves" of the samples.
    """

    value: float
    spread: float | None = None
    error: float | None = None
    error_by: Literal["jackknife", "normal", "halves"] = "normal"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that a metric reports. title: for people, such as "FID"; better: None where neither way is."""

    title: str
    better: Better | None


class UnfitError(ValueError):
    """A metric cannot be computed of these images or by this extractor; the message says why, and what would do."""


class TooFewError(ValueError):
    """A metric cannot be computed of so few images."""

    def __init__(self, *, have: int, need: int, real: bool) -> None:
        """Keep the numbers for a message.

        Args:
            have: how many there are.
            need: the fewest that the metric takes.
            real: whether real images are too few, rather than samples.
        """
        super().__init__(f"{'real images' if real else 'samples'}: at least {need} are needed, {have} are there")
        self.have, self.need, self.real = have, need, real


def require(images: int, need: int, *, real: bool = False) -> None:
    """Raise TooFewError unless there are as many images as a metric needs."""
    if images < need:
        raise TooFewError(have=images, need=need, real=real)


PARTS = 10  # of the samples, that a jackknife leaves out in turn


def jackknife_error(values: Tensor) -> Tensor:
    """Return the standard error from the values without each of g parts: (g, ...) -> (...); see interval.py."""
    parts = len(values)
    return ((parts - 1) ** 2 / parts * values.var(0)).sqrt()  # var: over parts - 1


Compute = Callable[[FeatureSet, FeatureSet], Mapping[str, Score]]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure of generated images.

    quantities: what it reports, by name. A name and the extractor's make the reported key ("fid" with "inception":
    fid_inception); where the metric needs the model, the name and the split's ("bits_per_dim_test").
    needs: what it reads of the images: "statistics" (mean and covariance), "features", "logits", "labels", "paths"
    (evaluate.paths); or "model": the method's own scores, which the stage ``generate`` keeps. Of the real images, one
    that needs "statistics" reads nothing else, so that those of others can take their place (evaluate.statistics).
    compares: whether it compares with real images, or scores the samples alone.
    settings: what else decides the number; part of its protocol.
    interval: how the error over samples is found: "jackknife" computes the metric ten times more, "own" takes what
    ``compute`` gives as ``Score.error``.
    compute: (samples, real images) to scores by name: pure, of what ``needs`` names alone; what it draws is by the
    samples' seed. Raises TooFewError where there are too few images for it (``require``), and UnfitError where it is
    none of these images or of this extractor.
    """

    quantities: Mapping[str, Quantity]
    needs: frozenset[Need]
    compute: Compute
    compares: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    interval: Literal["jackknife", "own"] = "jackknife"

    def describe(self, name: str) -> Quantity:
        """Return title and direction of a reported name.

        It is declared under the name or under its unit, the name's ending ("elbo_bits_per_dim" under "bits_per_dim");
        what is not declared gets no direction.
        """
        units = [known for known in self.quantities if name == known or name.endswith(f"_{known}")]
        if not units:
            return Quantity(title=name.replace("_", " "), better=None)
        unit = max(units, key=len)
        before = name.removesuffix(unit).replace("_", " ")
        return replace(self.quantities[unit], title=f"{before}{self.quantities[unit].title}")
