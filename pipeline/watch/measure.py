"""The contract of a measure: what it needs of a look, and a pure function.

A measure is one file of pipeline/watch/measures, named as curves and ``runs.<run>.keep`` name it, that defines
``MEASURE``. It is cheap: a look happens every so many images while a run trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pipeline.core.method import Method

Need = Literal["critic", "posterior"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is seen of a training at one moment, on the CPU.

    Attributes:
        samples: (m, d) float64, the area-pooled pixels of samples of the averaged nets, which are finite; m <= n.
        real: (n, d) float64, those of real training images.
        critic_on_samples: (m,), the critic's scores of the samples; None if the method has no critic.
        critic_on_real: (n,), those of the real images.
        posterior_mean: (n, z), the mean of q(z | x) for each real image; None without a Gaussian posterior.
    """

    samples: Tensor
    real: Tensor
    critic_on_samples: Tensor | None = None
    critic_on_real: Tensor | None = None
    posterior_mean: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that is watched.

    Attributes:
        title: for people.
        better: None where neither way is, so that no run can keep its best by it.
        needs: what a method must have: "critic" (``Method.criticize``), "posterior" (it encodes to a Gaussian).
        compute: of a look, whose parts that ``needs`` names are there; pure. NaN: it cannot be said.
    """

    title: str
    better: Better | None
    needs: frozenset[Need] = frozenset()
    compute: Callable[[Look], float]


def offered(method: Method) -> frozenset[Need]:
    """Return what a look at a method's training can show besides samples."""
    has: set[Need] = {"critic"} if method.criticizes else set()
    if {"mean", "log_variance"} <= set(method.encodes):
        has.add("posterior")
    return frozenset(has)
