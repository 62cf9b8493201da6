"""How unevenly images change on the way from one latent to another: after Karras, Laine, Aila, "A Style-Based Generator
Architecture for Generative Adversarial Networks", CVPR 2019, arXiv:1812.04948, section 4.1.

    path_length = E [ |f(G(walk(z1, z2, t + e))) - f(G(walk(z1, z2, t)))|^2 / e^2 ]

of latents z1, z2 and a place t on the way, a great circle where latents are normal. A sample that jumps from one thing
to another in between makes it large. It is no PPL: f is the extractor's features in the place of LPIPS, the step e is
1/16 in the place of 1/10,000, and nothing is cropped or trimmed. Extractors see images of 256 levels, in which so small
a step is lost in rounding: with 1/10,000 the rounding is a hundred times what is to be measured, with 1/16 one to two
percent of it (docs/metrics.md). It compares only with numbers of the same extractor and data; fewer modes make it
smaller, so read it beside FID.

Each pair is drawn anew, so that the number is a mean over pairs.
"""

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, UnfitError


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    paths = samples.paths
    if len(paths) < 2:
        raise UnfitError(
            "no samples were drawn on latent paths: set evaluate.paths, for example to 1000 (real images have none)."
        )
    if not paths.any():
        raise UnfitError("its samples do not depend on continuous latents, so there is no way from one to another.")
    return {"path_length": Score(float(paths.mean()), error=float(paths.std()) / len(paths) ** 0.5)}


METRIC = Metric(
    quantities={"path_length": Quantity(title="Path length", better="lower")},
    needs=frozenset({"paths"}),
    compute=_compute,
    compares=False,
    interval="own",
)
