"""Laws of the loop's parts: phases and repeats, the moving average, penalties, divergences, likelihoods."""

import math
from itertools import islice

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from toy_data import toy_batch, toy_split

from pipeline import methods
from pipeline.core.batch import ImageSpec, to_uint8, to_unit_range
from pipeline.core.loop import fit
from pipeline.core.state import RAMP_UP, State
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.families.latents import slerp
from pipeline.families.penalties import gradient_penalty, input_gradient
from pipeline.families.vae import bits_per_dimension, discretized_logistic, kl_to_standard_normal

CPU = torch.device("cpu")


def test_bytes_and_unit_range_are_inverse_and_exact_at_the_ends() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    unit = to_unit_range(levels, CPU)
    assert unit.min() == -1.0 and unit.max() == 1.0
    assert torch.equal(to_uint8(unit), levels)


def test_the_clock_counts_images_that_the_longest_phase_saw() -> None:
    method = methods.load("wgan_gp", width=8, latent=4, critic_steps=3)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    stream = batches(toy_split(), seed=0, batch_size=8, world=World())
    loop = fit(method, state, stream, World(), seed=0, total=100, ema_half_life=0.0)
    assert [state.seen for _ in loop] == [24, 48, 72, 96, 120]
    assert next(stream).noise.ids[0] == 120


def test_the_average_has_the_half_life_it_is_given() -> None:
    method = methods.load("dcgan", width=8, latent=4)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    state.seen = 10**9  # far beyond the ramp-up
    for tensor in state.ema.state_dict().values():
        tensor.zero_()
    with torch.no_grad():
        for parameter in state.nets.parameters():
            parameter.fill_(1.0)
    for _ in range(10):
        state.update_average(100, half_life=1000.0)
    for parameter in state.ema.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 0.5), rtol=0, atol=1e-5)


def test_the_average_forgets_its_random_beginning() -> None:
    method = methods.load("dcgan", width=8, latent=4)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    state.seen = 1000
    for parameter in state.ema.parameters():
        parameter.zero_()
    with torch.no_grad():
        for parameter in state.nets.parameters():
            parameter.fill_(1.0)
    state.update_average(50, half_life=1e9)
    expected = 1 - 0.5 ** (50 / (1000 * RAMP_UP))
    for parameter in state.ema.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), rtol=0, atol=1e-5)


def test_integer_buffers_are_copied_into_the_average() -> None:
    method = methods.load("dcgan", width=8, latent=4)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    stream = batches(toy_split(), seed=0, batch_size=8, world=World())
    for _ in islice(fit(method, state, stream, World(), seed=0, total=10**6, ema_half_life=1e6), 3):
        pass
    counters = [(n, b) for n, b in state.ema.named_buffers() if not b.is_floating_point()]
    assert counters and all(b == state.nets.get_buffer(n) for n, b in counters)


class Linear(nn.Module):
    """A critic whose gradient has one norm everywhere."""

    def __init__(self, channels: int, norm: float) -> None:
        super().__init__()
        weight = torch.randn(channels * 16, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight * norm / weight.norm())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight[:, None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 8])
def test_the_penalty_on_a_linear_critic_in_closed_form(count: int, channels: int) -> None:
    real, fake = (toy_batch(count, channels=channels, size=4, seed=seed).images for seed in (0, 1))
    critic = Linear(channels, norm=3.0)
    penalty = gradient_penalty(critic, real, fake, torch.full((count, 1, 1, 1), 0.3))
    torch.testing.assert_close(penalty, torch.tensor(4.0), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(penalty, critic.weight)
    # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    torch.testing.assert_close(gradient, 4.0 * critic.weight.detach() / 3.0, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_finite_where_the_critic_is_flat() -> None:
    critic = Linear(1, norm=0.0)
    nn.init.zeros_(critic.weight)
    batch = toy_batch(4, size=4)
    penalty = gradient_penalty(critic, batch.images, batch.images, torch.ones(4, 1, 1, 1))
    (gradient,) = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(penalty, torch.tensor(1.0), rtol=1e-4, atol=0)
    assert gradient.isfinite().all()


def test_a_samples_input_gradient_does_not_see_its_neighbours() -> None:
    critic = methods.load("wgan_gp", width=8).build(ImageSpec(channels=1, size=16))["critic"].train()
    images = toy_batch(6).images
    changed = images.clone()
    changed[3] += 0.5
    one, two = input_gradient(critic, images), input_gradient(critic, changed)
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(one[others], two[others], rtol=1e-4, atol=1e-7)
    assert (one[3] - two[3]).abs().max() > 1e-6


def test_a_critic_with_batch_norm_is_refused_under_a_penalty() -> None:
    with pytest.raises(ValueError, match="per sample"):
        methods.load("wgan_gp", critic_norm="batch")


def test_kl_in_closed_form_and_never_negative() -> None:
    mean, log_variance = torch.randn(50, 7), torch.randn(50, 7)
    ours = kl_to_standard_normal(mean, log_variance)
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert kl_to_standard_normal(torch.zeros(3, 5), torch.zeros(3, 5)).abs().max() == 0
    assert ours.min() > 0


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-1.3, -0.5, 0.0, 0.99])
def test_the_pixels_probabilities_sum_to_one(mean: float, log_scale: float) -> None:
    levels = torch.arange(256, dtype=torch.float64).view(256, 1, 1, 1) / 127.5 - 1
    log_probability = discretized_logistic(levels, torch.tensor(mean).double(), torch.tensor(log_scale).double())
    torch.testing.assert_close(log_probability.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-9)
    single = discretized_logistic(levels.float(), torch.tensor(mean), torch.tensor(log_scale))
    assert single.isfinite().all()
    torch.testing.assert_close(single.exp().sum(), torch.tensor(1.0), rtol=0, atol=2e-3)


def test_a_wide_likelihood_tends_to_eight_bits() -> None:
    images = to_unit_range(torch.randint(1, 255, (2, 1, 8, 8), dtype=torch.uint8), CPU).double()
    nats = -discretized_logistic(images, torch.zeros(()).double(), torch.tensor(-1.5).double())
    # with bins of 2/255 and a logistic of scale s the density at 0 is 1/(4 s): a bound both ways around the truth
    bits = bits_per_dimension(nats, 64)
    assert bits.min() > 6.0 and bits.max() < 16.0
    uniform = bits_per_dimension(torch.tensor([64 * math.log(256.0)]), 64)
    torch.testing.assert_close(uniform, torch.tensor([8.0]), rtol=1e-6, atol=0)


def test_interpolation_begins_and_ends_at_its_latents() -> None:
    start, end = torch.randn(5, 12), torch.randn(5, 12)
    walk = slerp(start, end, torch.linspace(0, 1, 7))
    torch.testing.assert_close(walk[:, 0], start)
    torch.testing.assert_close(walk[:, -1], end)
    same = slerp(start, start, torch.linspace(0, 1, 3))
    torch.testing.assert_close(same, start[:, None].expand(5, 3, 12))
