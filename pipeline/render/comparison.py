"""The contract of a comparison: a picture of what metrics see, the features of samples and of real images.

A comparison is one file of pipeline/render/comparisons, named as params.yaml: evaluate.comparisons names it, that
defines ``COMPARISON``. It is drawn in the stage ``evaluate``, once for each extractor, and needs no model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.render.drawn import Drawn


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A picture of two feature sets.

    Attributes:
        title: for people.
        caption: what one sees in it, and how to read it; ends with a full stop.
        draw: samples, real images -> a picture; None where they are too few. Its arguments are memory-mapped, so it
            should take some thousands of images at most. What it draws at random, it draws by the samples' seed.
    """

    title: str
    caption: str
    draw: "Callable[[FeatureSet, FeatureSet], Drawn | None]"
