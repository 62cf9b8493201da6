"""Laws of the penalties: closed forms on linear critics, one value per sample, full precision."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_batch

from pipeline.families.penalties import clip_weights, gradient_penalty, input_gradient, perturbed, r1_penalty
from pipeline.nets import dcgan, resnet
from pipeline.nets.shapes import CriticShape

# Penalties on linear critics, where the gradient is the weight.


def linear(channels: int, size: int = 4, length: float = 3.0) -> Callable[[Tensor], Tensor]:
    """A critic whose gradient has that length everywhere."""
    weight = torch.randn(channels * size * size, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight *= length / weight.norm()
    return lambda images: images.flatten(1).to(weight.dtype) @ weight


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 8])
def test_penalties_on_a_linear_critic_are_closed_forms(count: int, channels: int) -> None:
    critic = linear(channels)
    real, fake = (toy_batch(count, channels=channels, size=4, seed=seed).images.double() for seed in (0, 1))
    epsilon = torch.rand(count, 1, 1, 1)
    assert abs(float(gradient_penalty(critic, real, fake, epsilon)) - (3 - 1) ** 2) < 1e-6
    around = perturbed(real, torch.rand_like(real))
    assert abs(float(gradient_penalty(critic, real, around, epsilon)) - (3 - 1) ** 2) < 1e-6
    assert abs(float(r1_penalty(critic, real)) - 3**2) < 1e-6
    assert abs(float(r1_penalty(critic, fake)) - 3**2) < 1e-6


def test_a_penalty_is_the_mean_over_samples_not_of_the_whole_batch() -> None:
    """A quadratic critic, |x|^2 / 2, has gradient x: each sample its own norm."""
    images = toy_batch(5, channels=3, size=4).images
    norms = images.flatten(1).norm(dim=1)
    critic = lambda x: 0.5 * x.flatten(1).square().sum(1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(r1_penalty(critic, images), norms.square().mean())
    torch.testing.assert_close(
        gradient_penalty(critic, images, images, torch.ones(5, 1, 1, 1)), ((norms - 1) ** 2).mean()
    )


def test_the_penalty_is_taken_at_one_point_per_sample_between_real_and_fake() -> None:
    real, fake = torch.full((2, 3, 4, 4), 1.0), torch.full((2, 3, 4, 4), -1.0)
    seen: list[Tensor] = []

    def critic(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return images.flatten(1).sum(1, keepdim=True)

    gradient_penalty(critic, real, fake, torch.tensor([0.25, 1.0]).view(2, 1, 1, 1))
    assert torch.equal(seen[0][0], torch.full((3, 4, 4), -0.5)) and torch.equal(seen[0][1], real[1])


def critic_of(norm_name: str = "layer", spectral: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return dcgan.Critic(CriticShape(channels=3, size=16, width=8, norm_name=norm_name, spectral=spectral))


@pytest.mark.parametrize("penalty", [r1_penalty, lambda c, x: gradient_penalty(c, x, x, torch.ones(len(x), 1, 1, 1))])
def test_penalties_are_finite_where_the_critic_is_flat(penalty: Callable[..., Tensor]) -> None:
    critic = critic_of("none")
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    value = penalty(critic, toy_batch(4, channels=3).images)
    value.backward()
    assert value.isfinite()
    assert all(p.grad.isfinite().all() for p in critic.parameters() if p.grad is not None)


@pytest.mark.parametrize("penalty", [r1_penalty, lambda c, x: gradient_penalty(c, x, x, torch.ones(len(x), 1, 1, 1))])
@pytest.mark.parametrize("spectral", [False, True])
def test_penalties_under_bfloat16_autocast_agree_with_float64(spectral: bool, penalty: Callable[..., Tensor]) -> None:
    critic, images = critic_of(spectral=spectral).eval(), toy_batch(4, channels=3).images
    exact = penalty(copy.deepcopy(critic).double(), images.double()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(images).dtype == torch.bfloat16
        cast, from_half = penalty(critic, images), penalty(critic, images.bfloat16())
    assert cast.dtype == torch.float32
    assert abs(float(cast.detach() / exact) - 1) < 1e-2
    assert abs(float(from_half.detach() / exact) - 1) < 5e-2  # the images themselves are rounded


@pytest.mark.parametrize("norm_name", ["layer", "group", "instance", "none"])
def test_a_samples_input_gradient_does_not_see_its_neighbours(norm_name: str) -> None:
    critic, images = critic_of(norm_name), toy_batch(4, channels=3).images
    other = images.clone()
    other[0] = -images[0]
    before, after = input_gradient(critic, images), input_gradient(critic, other)
    torch.testing.assert_close(before[1:], after[1:], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(before[0], after[0], rtol=1e-2)


def test_dragans_perturbation_is_half_a_deviation_per_image() -> None:
    images = toy_batch(4, channels=3).images
    moved = perturbed(images, torch.ones_like(images)) - images
    expected = 0.5 * images.flatten(1).std(1, correction=0)
    torch.testing.assert_close(moved.flatten(1), expected[:, None].expand(-1, moved[0].numel()))
    assert torch.equal(perturbed(images, torch.zeros_like(images)), images)


def test_clipping_keeps_what_lies_inside() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.005, -3.0]]))
        layer.bias.fill_(0.02)
    clip_weights(layer, 0.01)
    assert torch.equal(layer.weight, torch.tensor([[0.005, -0.01]])) and float(layer.bias) == torch.tensor(0.01)


def test_a_residual_critic_can_be_penalised() -> None:
    critic = resnet.Critic(CriticShape(channels=1, size=16, width=4, norm_name="layer"))
    r1_penalty(critic, toy_batch(2).images).backward()
    assert sum(p.grad is not None for p in critic.parameters()) > 10
