"""Augmentations: each image by its own random numbers, true to what they say, differentiable."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_data import toy_batch

from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.data.augmentation import Augmentation
from pipeline.nets.critic_augment import ADA_IMAGES, ADAPT_EVERY, AUGMENTS, Adaptive, DiffAugment, _hue_rotated


def strong() -> Adaptive:
    net = Adaptive(0.6)
    net.strength.fill_(1.0)
    return net


CRITICS: list[Callable[[], torch.nn.Module]] = [DiffAugment, strong]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("made", CRITICS)
def test_an_image_is_augmented_alike_in_any_batch_and_differently_from_others(
    made: Callable[[], torch.nn.Module], channels: int
) -> None:
    batch, net = toy_batch(6, channels=channels), made()
    whole = net(batch.images, batch.noise)
    part = net(batch.images[2:4], Noise(0, batch.noise.ids[2:4]))
    torch.testing.assert_close(whole[2:4], part, rtol=0, atol=1e-6)
    assert whole.shape == batch.images.shape
    same = net(batch.images[:1].expand(6, -1, -1, -1), batch.noise)
    assert all((same[0] - same[k]).abs().max() > 0.05 for k in range(1, 6))


@pytest.mark.parametrize("made", CRITICS)
def test_the_gradient_reaches_the_image(made: Callable[[], torch.nn.Module]) -> None:
    batch = toy_batch(4, channels=3)
    images = batch.images.requires_grad_(True)
    made()(images, batch.noise).square().sum().backward()
    assert images.grad is not None and (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_no_augmentation_and_strength_zero_change_nothing() -> None:
    batch = toy_batch(5, channels=3)
    assert torch.equal(AUGMENTS["none"](0.6)(batch.images, batch.noise), batch.images)
    torch.testing.assert_close(Adaptive(0.6)(batch.images, batch.noise), batch.images, rtol=0, atol=1e-5)


def test_the_mean_number_of_changed_images_is_the_strength() -> None:
    net = Adaptive(0.6)
    net.strength.fill_(0.05)
    images = torch.rand(4000, 1, 8, 8)
    moved = (net(images, Noise(0, torch.arange(4000))) - images).abs().amax((1, 2, 3)) > 1e-3
    # Of eight transformations each acts with 0.05; three do nothing in a quarter to half of their draws.
    survival = (1 - 0.05) ** 4 * (1 - 0.05 / 2) * (1 - 0.05 * 3 / 4) * (1 - 0.05)
    assert 0.2 < moved.float().mean() < 1 - survival + 0.08


def test_the_strength_rises_while_real_images_score_above_the_target_and_falls_below() -> None:
    net = Adaptive(0.6)
    for _ in range(2 * ADAPT_EVERY):
        net.observe(torch.ones(50, 1))
        net.adapt(World())
    risen = float(net.strength)
    assert risen == pytest.approx(2 * ADAPT_EVERY * 50 / ADA_IMAGES, rel=1e-4)
    for _ in range(ADAPT_EVERY):
        net.observe(torch.cat((torch.ones(25, 1), -torch.ones(25, 1))))  # mean sign 0 < 0.6
        net.adapt(World())
    assert float(net.strength) == pytest.approx(risen - ADAPT_EVERY * 50 / ADA_IMAGES, rel=1e-4)
    for _ in range(1000):
        net.observe(-torch.ones(5000, 1))
        net.adapt(World())
    assert float(net.strength) == 0.0


def test_a_hue_turned_three_times_by_a_third_is_the_channels_turned_around() -> None:
    images = torch.rand(2, 3, 4, 4)
    third = torch.full((2, 1, 1, 1), 2 * torch.pi / 3)
    once = _hue_rotated(images, third)
    assert torch.allclose(once, images.roll(1, 1), atol=1e-5) or torch.allclose(once, images.roll(-1, 1), atol=1e-5)
    torch.testing.assert_close(_hue_rotated(_hue_rotated(once, third), third), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(once.mean(1), images.mean(1))


def shifted(images: Tensor, rows: int, columns: int) -> Tensor:
    return torch.roll(images, (rows, columns), (2, 3))


def test_a_crop_shifts_by_whole_pixels_no_further_than_asked() -> None:
    batch = toy_batch(64)
    found = Augmentation(crop=2)(batch.images, batch.noise)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    seen = set()
    for k in range(64):
        matches = [
            (i, j)
            for i in range(-2, 3)
            for j in range(-2, 3)
            if torch.allclose(shifted(batch.images[k : k + 1], i, j)[inner], found[k : k + 1][inner], atol=1e-5)
        ]
        assert len(matches) >= 1
        seen.add(matches[0])
    assert len(seen) > 15  # of 25


def test_flip_reverses_about_half_of_the_images_and_leaves_the_rest() -> None:
    batch = toy_batch(200)
    found = Augmentation(flip=True)(batch.images, batch.noise)
    kept = (found == batch.images).flatten(1).all(1)
    flipped = (found == batch.images.flip(3)).flatten(1).all(1)
    assert (kept | flipped).all() and 70 < int(flipped.sum()) < 130


def test_a_rotation_keeps_the_middle_and_stays_within_its_angle() -> None:
    disk = ((torch.arange(33) - 16.0)[:, None] ** 2 + (torch.arange(33) - 16.0)[None] ** 2 < 100).float()[None, None]
    noise = Noise(0, torch.arange(16))
    turned = Augmentation(rotation=30)(disk.expand(16, -1, -1, -1), noise)
    assert (turned - disk).abs().mean() < 0.03  # a disk stays a disk
    bar = torch.zeros(1, 1, 33, 33)
    bar[:, :, 16, :] = 1.0
    left = Augmentation(rotation=30)(bar.expand(16, -1, -1, -1), noise)[:, 0, :, 6]
    heights = (left * torch.arange(33.0)).sum(1) / left.sum(1)
    largest = 10 * torch.tan(torch.tensor(torch.pi / 6))
    assert (heights - 16).abs().max() < largest + 1 and (heights - 16).abs().max() > 1
