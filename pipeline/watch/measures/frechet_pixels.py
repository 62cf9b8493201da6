"""The Frechet distance of two Gaussians fitted to area-pooled pixels of samples and of real images, as a share of the
real images' variance.

It is FID's formula on the crudest of features, of few images: good for the course of one training, and neither FID nor
comparable with it. What it sees are the places and the covariances of light and dark, no sharpness. 0: alike; 1: as far
as samples that are all the mean real image, whose distance is the trace of the real images' covariance.
"""

from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.watch.measure import Look, Measure

FEWEST = 2  # a covariance


def _compute(look: Look) -> float:
    if min(len(look.samples), len(look.real)) < FEWEST:
        return float("nan")
    real = Statistics.of(look.real)
    variance = float(real.covariance.trace())
    return frechet_distance(real, Statistics.of(look.samples)) / variance if variance > 0 else float("nan")


MEASURE = Measure(title="Frechet distance of pooled pixels, of real images' variance", better="lower", compute=_compute)
