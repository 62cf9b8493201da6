"""The standard errors, over samples, of shares: of samples (precision), and of real images that a union over samples
decides (recall, coverage).

A real image counts or does not, and further samples add little where it counts already. The jackknife of interval.py,
which sees what a tenth of the samples alone decides, finds errors that are too wide by a tenth to two thirds there
(Efron, Stein, "The jackknife estimate of variance", 1981: in expectation it never errs on the other side). Halves of
the samples are independent of each other, so that

    V(n / 2) = E (share(A) - share(B))^2 / 2

is the variance at n / 2 without bias: the mean over random halves A, B. What is left is from n / 2 to n; real images
stay as they are. Two laws of it, ``scale_free`` and ``fixed_balls``, in which own(n) is the same of one real image:

    own(n / 2) = mean over real images of E (counts in A - counts in B)^2 / 2

A share of which next to none is left has no error of 0: to each variance that of two images is added, as Agresti and
Coull do (The American Statistician, 1998).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.core.noise import Noise

SPLITS = 20  # into random halves
FEWEST = 80  # samples, below which halves say too little of the whole
_MORE = 2  # images


def binomial(share: float, count: int) -> float:
    """Return the error of a share of ``count`` independent images."""
    return _error(share * (1 - share) / count, count)


def scale_free(
    covered: Callable[[Tensor], tuple[Tensor, Tensor]], some: int, samples: int, real: int, seed: int
) -> float | None:
    """Return the error where balls are around samples and reach as many of them however many there are.

    Whether one real image counts is then as likely at any number as at n. Pairs of real images in the same balls vary
    together, and are as much fewer as balls are smaller, in proportion to 1 / n:

        V(n) = own / m + (V(s / 2) - own / m) (s / 2) / n

    Args:
        covered: of (some,) bool, the half A of some samples: which of some real images count in A and which in the
            other half, (r,) bool each; r may be less than ``real``, as both parts are means, over images and pairs.
        some: s, of how many samples halves are taken.
        samples: n, how many there are.
        real: m, how many real images the share is of.
        seed: of the halves.

    Returns:
        The error, above 0; None where there are fewer than 80 samples or two real images.
    """
    singles, pairs = [], []
    for split in range(SPLITS) if samples >= FEWEST and real > 1 else ():
        first, second = covered(_order(some, seed, split) < some // 2)
        difference = first.double() - second.double()
        count, own = len(difference), difference.square().sum()
        singles.append(own / count / 2)
        pairs.append((difference.sum().square() - own) / (count * (count - 1)) / 2)
    if not singles:
        return None
    single, pair = float(torch.stack(singles).mean()), float(torch.stack(pairs).mean())
    return _error((single + (real - 1) * pair * some / 2 / samples) / real, real)


def fixed_balls(reached: Tensor, samples: int, seed: int) -> float | None:
    """Return the error of the share of balls that hold a sample, where the balls stay as they are.

    A ball is empty with a probability that falls geometrically in the number of samples, so log own falls as a line in
    it where most hold one; where few do, own grows, no faster than n does:

        own(n) = own(n / 2) q,   q = min(r, r^2),   r = own(n / 2) / own(n / 4)

    Pairs of balls vary together by the samples that both hold. Of pairs that hold the same, that falls as own does; of
    pairs that have little in common, by the samples that are a ball's only one, with single(n) balls that hold just
    one. The mean of both is taken:

        V(n) = own(n) / m + (V(n / 2) - own(n / 2) / m) (q + (single(n) / single(n / 2))^2 / 2) / 2

    Args:
        reached: (real, parts) bool: whether a ball holds some sample of each of equally many parts of the samples.
        samples: how many there are.
        seed: of the halves.

    Returns:
        The error, above 0; None where there are fewer than 80 samples.
    """
    if samples < FEWEST:
        return None
    variances, halves, quarters, singles = [], [], [], []
    for split in range(SPLITS):
        order = _order(reached.shape[1], seed, split).argsort()
        fourths = torch.stack([reached[:, part].any(1) for part in order.tensor_split(4)]).double()
        both = torch.maximum(fourths[::2], fourths[1::2])
        variances.append(both.mean(1).var())
        halves.append(both.var(0).mean())
        quarters.append(fourths.var(0).mean())
        singles.append(torch.stack([_single(reached[:, part]) for part in order.tensor_split(2)]).mean())
    variance, half, quarter, before = (torch.stack(values).mean() for values in (variances, halves, quarters, singles))
    ratio = half / quarter if quarter else torch.ones(())
    change = _single(reached) / before if before else torch.zeros(())
    own, factor = half / len(reached), torch.minimum(ratio, ratio.square())
    whole = own * factor + (variance - own) * (factor + change.square() / 2) / 2
    return _error(float(whole), len(reached))


def _single(reached: Tensor) -> Tensor:
    """Return about how many balls (real, parts) hold just one sample: those that lie in one part, but for those of
    several samples of one part."""
    return (reached.sum(1) == 1).sum().double()


def _error(variance: float, count: int) -> float:
    return float((max(variance, 0.0) + _MORE / count**2) ** 0.5)


def _order(count: int, seed: int, split: int) -> Tensor:
    """Return (count,) int64: a random place for each, the same on every machine."""
    drawn = Noise(seed, torch.arange(count)).stream("halves").uniform(str(split))
    return drawn.argsort(stable=True).argsort()
