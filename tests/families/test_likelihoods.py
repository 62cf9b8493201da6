"""Laws of densities and likelihoods: closed forms, and probabilities of all levels that sum to one."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy
from toy_data import toy_batch

from pipeline.families.vae import (
    LEVEL,
    Gaussian,
    bernoulli,
    dequantized_gaussian,
    discretized_logistic,
)

# ---- Divergences


def test_kl_between_normals_in_closed_form_and_never_negative() -> None:
    one, other = (Gaussian(*torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    expected = kl_divergence(*(Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (one, other)))
    torch.testing.assert_close(one.kl(other), expected, rtol=1e-4, atol=1e-5)
    assert one.kl(other).min() > 0
    assert one.kl(one).abs().max() == 0


def test_a_normals_density_in_closed_form() -> None:
    normal = Gaussian(*torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)))
    values = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    exact = Independent(Normal(normal.mean[:, None], (0.5 * normal.log_variance[:, None]).exp()), 1)
    torch.testing.assert_close(normal.per_draw().log_density(values), exact.log_prob(values), rtol=1e-5, atol=1e-5)


# ---- Likelihoods


def levels() -> Tensor:
    """(256, 1, 1, 1) in float64: every value that a pixel can have."""
    return torch.arange(256, dtype=torch.float64).view(256, 1, 1, 1) / 127.5 - 1


@pytest.mark.parametrize("log_scale", [-6.0, -2.0, 1.0])
@pytest.mark.parametrize("mean", [-1.4, 0.0, 0.99])
def test_the_discretized_logistics_levels_sum_to_one(mean: float, log_scale: float) -> None:
    log_probability = discretized_logistic(levels(), torch.tensor(mean).double(), torch.tensor(log_scale).double())
    torch.testing.assert_close(log_probability.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.003, 0.1])
def test_the_dequantized_gaussian_integrates_to_one_over_the_levels(scale: float) -> None:
    uniform = ((torch.arange(400, dtype=torch.float64) + 0.5) / 400).view(1, 400, 1, 1, 1)
    log_scale = torch.tensor(math.log(scale)).double()
    parts = dequantized_gaussian(levels()[:, None], torch.tensor(0.1).double(), log_scale, uniform).exp()
    torch.testing.assert_close(parts.mean(1).sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.003, 0.1])
def test_the_dequantized_gaussian_bounds_each_levels_probability(scale: float) -> None:
    uniform = ((torch.arange(400, dtype=torch.float64) + 0.5) / 400).view(1, 400, 1, 1, 1)
    mean = torch.tensor(0.1).double()
    bound = dequantized_gaussian(levels()[:, None], mean, torch.tensor(math.log(scale)).double(), uniform).mean(1)
    normal, near = Normal(mean, scale), (levels() - 0.1).abs().flatten() < 5 * scale
    exact = (normal.cdf(levels() + LEVEL / 2) - normal.cdf(levels() - LEVEL / 2)).log().flatten()
    assert near.sum() >= 3
    assert (bound <= exact + 1e-9)[near].all()
    # What Jensen's inequality loses: a constant for narrow scales, next to nothing for wide ones.
    assert (exact - bound)[near].max() < (0.02 if scale == 0.1 else 4.0)


def test_bernoulli_is_a_cross_entropy_and_no_likelihood_of_gray_images() -> None:
    batch = toy_batch(5, channels=3, size=8)
    location = toy_batch(5, channels=3, size=8, seed=1).images * 3
    expected = binary_cross_entropy((location.tanh() + 1) / 2, (batch.images + 1) / 2, reduction="none")
    torch.testing.assert_close(bernoulli(batch.images, location), -expected.sum((1, 2, 3)), rtol=1e-5, atol=0)
    gray = bernoulli(levels(), torch.zeros(()).double()).exp().sum()
    torch.testing.assert_close(gray, torch.tensor(128.0).double())  # 256 levels of one half each: not 1
    assert bernoulli(batch.images, torch.full_like(location, 50.0)).isfinite().all()


def test_bernoulli_is_the_expected_log_probability_of_the_binarized_image() -> None:
    image, location = torch.tensor([[[[-0.4, 0.9]]]]), torch.tensor([[[[0.2, 0.6]]]])
    white, p = (image.flatten() + 1) / 2, (location.flatten().tanh() + 1) / 2
    expected = torch.zeros(())
    for bits in torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])):
        chance = torch.where(bits == 1, white, 1 - white).prod()
        expected += chance * torch.where(bits == 1, p, 1 - p).log().sum()
    torch.testing.assert_close(bernoulli(image, location)[0], expected, rtol=1e-5, atol=0)
