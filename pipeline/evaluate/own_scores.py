"""What methods say of the test images themselves, such as likelihoods; always reported, so no choice of params.yaml."""

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.evaluate.metric import Metric, Quantity, Score

NAME = "own_scores"


def _compute(samples: FeatureSet, real: FeatureSet) -> dict[str, Score]:
    return {name: Score(value, error=samples.score_errors.get(name)) for name, value in samples.scores.items()}


METRIC = Metric(
    quantities={
        "bits_per_dim": Quantity(title="bits/dim", better="lower"),
        "elbo_bits_per_dim": Quantity(title="ELBO bits/dim", better="lower"),
        "iwae_bits_per_dim": Quantity(title="IWAE bits/dim", better="lower"),
        "l1": Quantity(title="L1 to the truth", better="lower"),
        "psnr": Quantity(title="PSNR (dB)", better="higher"),
        "nats_per_code": Quantity(title="nats/code", better="lower"),
    },
    needs=frozenset({"model"}),
    compute=_compute,
    interval="own",
    compares=False,
)
