"""How well the critic tells real images from samples: the probability that it scores a real one higher (the area under
its ROC curve, the statistic of Mann and Whitney).

0.5: it cannot tell them apart; 1: no sample comes near a real image in its eyes.
"""

from torch import Tensor

from pipeline.watch.measure import Look, Measure


def probability_above(first: Tensor, second: Tensor) -> float:
    """Return the probability that a number of the first kind is above one of the second; equal ones count half.

    Args:
        first: (n,).
        second: (m,).

    Returns:
        The probability, in [0, 1]; NaN if there are none of a kind.
    """
    above = (first[:, None] > second).double() + 0.5 * (first[:, None] == second).double()
    return float(above.mean())


def _compute(look: Look) -> float:
    assert look.critic_on_real is not None and look.critic_on_samples is not None  # it is needed
    return probability_above(look.critic_on_real, look.critic_on_samples)


MEASURE = Measure(
    title="Critic's ranking of real above generated", better=None, needs=frozenset({"critic"}), compute=_compute
)
