"""The share of latent dimensions that say something about the image: Burda et al., arXiv:1509.00519, section 5.2.

A dimension u is active if the variance over images of its posterior mean, Cov_x(E_q(u|x) [u]), is above 0.01.
"""

from pipeline.watch.measure import Look, Measure

LEAST_VARIANCE = 0.01  # the paper's


def _compute(look: Look) -> float:
    assert look.posterior_mean is not None  # it is needed
    if len(look.posterior_mean) < 2:
        return float("nan")
    return float((look.posterior_mean.var(dim=0) > LEAST_VARIANCE).double().mean())


MEASURE = Measure(title="Active units", better=None, needs=frozenset({"posterior"}), compute=_compute)
