"""FID within each class, where samples have labels: Ravuri, Vinyals, "Classification accuracy score", NeurIPS 2019,
arXiv:1905.10887, sec. 4, and Benny et al., "Evaluation metrics for conditional image generation", IJCV 2021,
arXiv:2004.12361, eq. 10 (within-class FID).

    d_c^2 = |m1_c - m2_c|^2 + tr S1_c + tr S2_c - 2 tr (S1_c S2_c)^(1/2) for each class c

Their mean and their largest are reported. FID of all samples does not see whether a 3 was asked for where an 8 came;
this does. A class has few images, so that each number is biased upwards, more than FID is: compare equal counts alone.
"""

from pipeline.evaluate.feature_set import FeatureSet, Statistics
from pipeline.evaluate.metric import Metric, Quantity, Score, UnfitError
from pipeline.evaluate.metrics.fid import FEWEST_REAL, FEWEST_SAMPLES, frechet_distance


def class_distances(samples: FeatureSet, real: FeatureSet) -> dict[int, float]:
    """Return the distance by class, of the classes that the real images have.

    Args:
        samples: with labels of their own.
        real: with labels.

    Returns:
        A distance by label.

    Raises:
        UnfitError: the samples were made without regard to labels, there is one class, or one has too few of either
            kind.
    """
    if not samples.labelled:
        raise UnfitError("The method samples without regard to labels; FID within classes needs one that is given them")
    classes = real.labels[: real.distinct].unique().tolist()
    if len(classes) < 2:
        raise UnfitError("All images are of one class; FID within classes needs data of two or more")
    found = {}
    for label in classes:
        here, there = (kind.distinct_features[kind.labels[: kind.distinct] == label] for kind in (samples, real))
        for images, least, what in ((there, FEWEST_REAL, "real images"), (here, FEWEST_SAMPLES, "samples")):
            if len(images) < least:
                raise UnfitError(f"Class {label} has {len(images)} {what}; at least {least} of each class are needed")
        found[label] = frechet_distance(Statistics.of(here), Statistics.of(there))
    return found


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    found = class_distances(samples, real).values()
    return {"class_fid": Score(sum(found) / len(found)), "worst_class_fid": Score(max(found))}


METRIC = Metric(
    quantities={
        "class_fid": Quantity(title="FID within classes", better="lower"),
        "worst_class_fid": Quantity(title="FID within the worst class", better="lower"),
    },
    needs=frozenset({"features", "labels"}),
    compute=_compute,
)
