"""Classes reached, and how their shares differ from the data's: Metz et al., "Unrolled GANs", ICLR 2017,
arXiv:1611.02163, sec. 3.3.1; Lin et al., "PacGAN", NeurIPS 2018, arXiv:1712.04086, sec. 4.

With p and q the shares of samples and of real images that a classifier puts into each of k classes, n_c + 1/2 of
n + k / 2 so that neither is 0,

    modes     the number of classes with a sample
    mode_kl   sum_c p_c log (p_c / q_c), in nats

Both sets are judged by the same classifier, whose classes must be the data's; whether they are is seen from the real
images: at least half of them must be put into the class that they are of. ImageNet's classes are not MNIST's.
"""

from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score, UnfitError, require

LEAST_ACCURACY = 0.5


def shares(predicted: Tensor, classes: int) -> Tensor:
    """Return the (k,) smoothed shares of classes among (n,) predictions."""
    return (predicted.bincount(minlength=classes).double() + 0.5) / (len(predicted) + classes / 2)


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    require(len(real), 1, real=True)
    require(samples.distinct, 1)
    classes = real.logits.shape[1]
    judged, judged_real = samples.logits[: samples.distinct].argmax(1), real.logits.argmax(1)
    accuracy = float((judged_real == real.labels).double().mean())
    if accuracy < LEAST_ACCURACY or len(real.labels.unique()) < 2:
        raise UnfitError(
            f"The extractor's {classes} classes are not the data's: {accuracy:.0%} of the real images are put into "
            "their own. Name an extractor in evaluate.extractors that was trained on these classes"
        )
    p, q = shares(judged, classes), shares(judged_real, classes)
    return {"modes": Score(float(len(judged.unique()))), "mode_kl": Score(float((p * (p / q).log()).sum()))}


METRIC = Metric(
    quantities={
        "modes": Quantity(title="Classes reached", better="higher"),
        "mode_kl": Quantity(title="KL of classes", better="lower"),
    },
    needs=frozenset({"logits", "labels"}),
    compute=_compute,
    settings={"least_accuracy": LEAST_ACCURACY},
)
