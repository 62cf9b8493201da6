"""Laws of the perceptual distance: zero of equal images alone, symmetric, each sample's own."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from toy_data import toy_batch

from pipeline.nets.efficientnet import pretrained
from pipeline.nets.perceptual import LEAST, STAGES, PerceptualDistance


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance(32).eval()


def images(seed: int = 0, *, channels: int = 1, size: int = 32) -> Tensor:
    return toy_batch(4, channels=channels, size=size, seed=seed).images


def test_it_is_zero_of_equal_images_positive_of_others_and_symmetric(distance: PerceptualDistance) -> None:
    one, other = images(0), images(1)
    assert torch.equal(distance(one, one), torch.zeros(4))
    found = distance(one, other)
    assert found.shape == (4,) and found.min() > 0.01 and found.max() <= 4 * len(STAGES)
    torch.testing.assert_close(distance(other, one), found, rtol=1e-6, atol=0)


def test_it_is_each_samples_own_and_gray_is_that_gray_in_colour(distance: PerceptualDistance) -> None:
    one, other = images(0), images(1)
    whole = distance(one, other)
    torch.testing.assert_close(distance(one[2:3], other[2:3]), whole[2:3], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distance(one.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1)), whole, rtol=1e-5, atol=1e-6)


def test_it_is_what_the_packages_own_network_gives(distance: PerceptualDistance) -> None:
    """Not folded, all of it, in the package's own scale of 0 .. 255."""
    net = pretrained(32)

    def features(of: Tensor) -> list[Tensor]:
        seen = (((of + 1) * 127.5 - 127) / 128).repeat(1, 3, 1, 1)
        seen, found = net._swish(net._bn0(net._conv_stem(seen))), []
        for index, block in enumerate(net._blocks):
            seen = block(seen)
            found += [normalize(seen)] if index in (0, 2, 4) else []
        return found

    one, other = images(0), images(1)
    pairs = zip(features(one), features(other), strict=True)
    expected = sum(((a - b) ** 2).sum(1).mean((1, 2)) for a, b in pairs)
    torch.testing.assert_close(distance(one, other), expected, rtol=1e-4, atol=1e-5)


def test_the_more_an_image_is_spoilt_the_further_it_is(distance: PerceptualDistance) -> None:
    one, noise = images(0), torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    none, little, much = (distance(one, (one + s * noise).clamp(-1, 1)).mean() for s in (0.0, 0.05, 0.4))
    assert none == 0 and 0 < 1.5 * little < much


def test_the_images_get_a_gradient_and_nothing_else_does(distance: PerceptualDistance) -> None:
    one, other = images(0).requires_grad_(), images(1).requires_grad_()
    distance(one, other).mean().backward()
    assert one.grad is not None and one.grad.flatten(1).norm(dim=1).min() > 0 and one.grad.isfinite().all()
    assert other.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in distance.parameters())
    one.grad = None
    distance(one, one.detach()).sum().backward()  # where they are equal
    assert one.grad is not None and torch.equal(one.grad, torch.zeros_like(one))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [4, 16, 31, 45, 64])
def test_images_of_any_size_are_taken(size: int, channels: int) -> None:
    found = PerceptualDistance(size)
    one, other = (images(seed, channels=channels, size=size) for seed in (0, 1))
    assert found.size == max(size, LEAST)
    assert torch.equal(found(one, one), torch.zeros(4)) and found(one, other).min() > 0
