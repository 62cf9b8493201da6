"""Laws of the classic nets: shapes and ranges in every combination, labels that count, spectral norm, upsampling."""

import copy
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import spectral_norm
from toy_data import toy_batch

from pipeline.nets import dcgan, mlp, resnet
from pipeline.nets.layers import (
    Conditioning,
    Head,
    LabelledFeatures,
    LabelledImages,
    LabelledNorm,
    NormName,
    Projection,
    SpectralNorm,
    Upsampling,
    add_spectral_norm,
    groups,
    norm,
    upsample,
)
from pipeline.nets.shapes import CriticShape, GeneratorShape

NORMS, UPSAMPLINGS, CONDITIONINGS = get_args(NormName), get_args(Upsampling), get_args(Conditioning)
NETS = {"dcgan": dcgan, "mlp": mlp, "resnet": resnet}
LATENT, CLASSES = 6, 5


def pair(name: str, *, generator: dict[str, Any] | None = None, critic: dict[str, Any] | None = None) -> Any:
    """A small generator and critic, on 1 channel and 16 pixels unless told otherwise."""
    torch.manual_seed(0)
    shape = {"channels": 1, "size": 16, "width": 4}
    return (
        NETS[name].Generator(GeneratorShape(latent=LATENT, **(shape | (generator or {})))),
        NETS[name].Critic(CriticShape(**(shape | (critic or {})))),
    )


def latents(count: int = 3) -> Tensor:
    return toy_batch(count).noise.normal("latent", LATENT)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm().detach() / b.norm().detach())


# Shapes and ranges.


@pytest.mark.parametrize("size", [16, 24, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_every_size_and_both_channel_counts(name: str, channels: int, size: int) -> None:
    shape = {"channels": channels, "size": size, "width": 2}
    generator, critic = pair(name, generator=shape, critic=shape | {"outputs": 7})
    images = generator(latents(2))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1 and images.std() > 0
    assert critic(images).shape == (2, 7)


@pytest.mark.parametrize("name", NETS)
def test_every_combination_of_norm_upsampling_spectral_norm_and_labels(name: str) -> None:
    labels = torch.tensor([0, 1, 4])
    for norm_name, upsampling, spectral, classes in product(NORMS, UPSAMPLINGS, (False, True), (0, CLASSES)):
        if (name, norm_name) == ("mlp", "instance"):
            continue
        shared = {"norm_name": norm_name, "spectral": spectral, "classes": classes}
        for conditioning in CONDITIONINGS:
            made = pair(
                name, generator=shared | {"upsampling": upsampling}, critic=shared | {"conditioning": conditioning}
            )
            images = made[0](latents(), labels)
            scores = made[1](images, labels)
            assert images.shape == (3, 1, 16, 16) and scores.shape == (3, 1)
            assert images.isfinite().all() and scores.isfinite().all()
            scores.sum().backward()
            for net in made:
                assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_instance_norm_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="use layer"):
        pair("mlp", generator={"norm_name": "instance"})


@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_a_size_without_a_pyramid_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"size: 34 is not .* set it to 32 or 36"):
        pair(name, generator={"size": 34})


@pytest.mark.parametrize("name", NETS)
def test_channels_last_changes_nothing(name: str) -> None:
    for module in pair(name, generator={"norm_name": "none"}):
        given = latents() if isinstance(module, NETS[name].Generator) else toy_batch(3).images
        last = copy.deepcopy(module)
        for conv in last.modules():
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                conv.to(memory_format=torch.channels_last)
        torch.testing.assert_close(last.eval()(given), module.eval()(given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_a_sample_in_evaluation_does_not_see_its_neighbours(name: str) -> None:
    for norm_name in NORMS:
        if (name, norm_name) == ("mlp", "instance"):
            continue
        generator, critic = pair(name, generator={"norm_name": norm_name}, critic={"norm_name": norm_name})
        whole = generator.eval()(latents(4))
        torch.testing.assert_close(generator(latents(4)[:1]), whole[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(critic.eval()(whole[:1]), critic(whole)[:1], rtol=1e-4, atol=1e-5)


# The residual nets are those of the paper.


def test_the_resnet_is_the_papers_at_32_pixels() -> None:
    generator = resnet.Generator(GeneratorShape(latent=128, channels=3, size=32, width=256, upsampling="nearest"))
    critic = resnet.Critic(CriticShape(channels=3, size=32, width=128, norm_name="none"))
    # table 3: dense 4*4*256, three blocks of 256 up, BN, conv; four blocks of 128, two of them down, sum, dense
    up = 2 * (256 * 256 * 9 + 256) + 256 * 256 + 256 + 4 * 256
    assert count(generator) == 129 * 4096 + 3 * up + 2 * 256 + 256 * 27 + 3
    convs = 2 * (128 * 128 * 9 + 128)
    first = 3 * 9 * 128 + 128 + 128 * 128 * 9 + 128 + 3 * 128 + 128
    assert count(critic) == first + (convs + 128 * 128 + 128) + 2 * convs + 129


def test_the_resnet_is_the_papers_at_128_pixels() -> None:
    generator = resnet.Generator(GeneratorShape(latent=8, channels=3, size=128, width=64))
    critic = resnet.Critic(CriticShape(channels=3, size=128, width=64, norm_name="none"))
    assert [block.conv2.out_channels for block in generator.blocks] == [1024, 512, 256, 128, 64]
    assert generator.grid == (1024, 4, 4)
    assert [critic.first.conv2.out_channels] == [64]
    assert [block.conv2.out_channels for block in critic.blocks] == [128, 256, 512, 1024, 1024]
    assert [isinstance(block.pool, nn.AvgPool2d) for block in critic.blocks] == [True] * 4 + [False]


def test_the_shortcut_may_convolve_before_it_upsamples() -> None:
    grid, convolve = torch.randn(2, 3, 4, 4), nn.Conv2d(3, 5, 1)
    cheap, plain = interpolate(convolve(grid), scale_factor=2.0), convolve(interpolate(grid, scale_factor=2.0))
    torch.testing.assert_close(cheap, plain, rtol=0, atol=1e-6)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# Labels.


@pytest.mark.parametrize("norm_name", ["batch", "none"])
@pytest.mark.parametrize("name", NETS)
def test_a_generator_uses_the_label_and_only_with_classes(name: str, norm_name: str) -> None:
    for classes in (0, CLASSES):
        generator, _ = pair(name, generator={"classes": classes, "norm_name": norm_name})
        one, two = (generator.eval()(latents(), torch.full((3,), label)) for label in (1, 2))
        assert (relative(one, two) > 1e-3) == (classes > 0)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("name", NETS)
def test_a_critic_uses_the_label_and_only_with_classes(name: str, conditioning: str) -> None:
    for classes in (0, CLASSES):
        _, critic = pair(name, critic={"classes": classes, "conditioning": conditioning})
        images = toy_batch(3).images
        one, two = (critic.eval()(images, torch.full((3,), label)) for label in (1, 2))
        assert (relative(one, two) > 1e-3) == (classes > 0)


@pytest.mark.parametrize("name", NETS)
def test_a_label_belongs_to_its_sample(name: str) -> None:
    shared = {"classes": CLASSES, "norm_name": "none"}
    generator, critic = pair(name, generator=shared, critic=shared)
    one, two = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4])
    with torch.no_grad():
        for net, given in ((generator, latents()), (critic, toy_batch(3).images)):
            torch.testing.assert_close(net(given, one)[:2], net(given, two)[:2], rtol=0, atol=0)
            assert not torch.equal(net(given, one)[2], net(given, two)[2])


def test_the_projection_is_an_inner_product() -> None:
    head = Head(7, 1, CLASSES)
    features, labels = torch.randn(3, 7), torch.tensor([4, 0, 2])
    assert head.projection is not None
    expected = [head.linear(f) + head.projection.weight[y] @ f for f, y in zip(features, labels, strict=True)]
    torch.testing.assert_close(head(features, labels), torch.stack(expected))


def test_the_class_conditional_norm_is_the_norm_then_the_classs_affine_map() -> None:
    images, labels = torch.randn(4, 8, 5, 5), torch.tensor([0, 3, 3, 1])
    for name in NORMS:
        layer = LabelledNorm(name, 8, CLASSES)
        assert layer.modulation is not None and not list(layer.norm.parameters())
        nn.init.normal_(layer.modulation.weight)
        scale, shift = layer.modulation.weight[labels, :8], layer.modulation.weight[labels, 8:]
        plain = norm(name, 8, affine=False)(images)
        torch.testing.assert_close(layer(images, labels), plain * scale[..., None, None] + shift[..., None, None])


def test_the_class_conditional_norm_begins_near_the_plain_one() -> None:
    scale, shift = LabelledNorm("batch", 1000, CLASSES).modulation.weight.chunk(2, dim=1)  # type: ignore[union-attr]
    assert abs(float(scale.mean()) - 1) < 2e-3 and abs(float(scale.std()) - 0.02) < 2e-3
    assert not shift.any()


def test_concatenation_adds_one_map_and_keeps_the_images() -> None:
    layer, images = LabelledImages(3, 8, CLASSES), torch.randn(2, 3, 8, 8)
    joined = layer(images, torch.tensor([4, 2]))
    assert layer.channels == 4 and torch.equal(joined[:, :3], images)
    assert layer.embedding is not None
    assert torch.equal(joined[:, 3].flatten(1), layer.embedding.weight[[4, 2]])


def test_without_a_norm_the_labels_embedding_is_concatenation() -> None:
    """A linear layer of (z, one-hot label) is a linear layer of z and an embedding, summed."""
    linear, layer, labels = nn.Linear(LATENT, 9), LabelledFeatures(9, CLASSES), torch.tensor([4, 0, 2])
    assert layer.embedding is not None
    joined = nn.Linear(LATENT + CLASSES, 9)
    with torch.no_grad():
        joined.weight.copy_(torch.cat((linear.weight, layer.embedding.weight.t()), dim=1))
        joined.bias.copy_(linear.bias)
    expected = joined(torch.cat((latents(), nn.functional.one_hot(labels, CLASSES)), dim=1))
    torch.testing.assert_close(layer(linear(latents()), labels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_however_strong_a_label_is_the_latents_keep_their_variance(name: str) -> None:
    """Where the label enters, the latents' own variation is normalized already: a class is not one image."""
    generator, _ = pair(name, generator={"classes": CLASSES})
    labels = torch.arange(200) % CLASSES
    for module in generator.modules():
        if isinstance(module, nn.Embedding):
            module.weight.data.mul_(3)
    images = generator(latents(200), labels)
    within = torch.stack([images[labels == label].var(0).mean() for label in range(CLASSES)]).mean()
    assert within > 0.1 * images.var(0).mean()


# Norms.


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 12, 20, 64, 96, 128, 1000, 1024])
def test_groups_divide_the_channels_into_at_least_four_each(channels: int) -> None:
    count = groups(channels)
    assert channels % count == 0 and 1 <= count <= 32
    assert count == 1 or channels // count >= 4
    assert groups(128) == 32 and groups(64) == 16


@pytest.mark.parametrize(("name", "over"), [("layer", (1, 2, 3)), ("instance", (2, 3)), ("batch", (0, 2, 3))])
def test_a_norm_gives_zero_mean_and_unit_variance_where_it_says(name: str, over: tuple[int, ...]) -> None:
    images = norm(name, 8)(torch.randn(16, 8, 6, 6) * 3 + 2)
    assert images.mean(over).abs().max() < 1e-5
    assert (images.var(over, correction=0) - 1).abs().max() < 1e-3


def test_group_norm_is_torchs() -> None:
    images = torch.randn(3, 16, 5, 5)
    grouped = images.reshape(3, 4, 4, 25)
    expected = (grouped - grouped.mean((2, 3), keepdim=True)) / grouped.var((2, 3), correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(norm("group", 16)(images), expected.reshape(images.shape), rtol=0, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_bfloat16_is_that_of_float32_rounded_once(memory_format: torch.memory_format) -> None:
    maps = torch.randn(3, 16, 6, 6).bfloat16().contiguous(memory_format=memory_format).requires_grad_()
    wide = maps.detach().float().requires_grad_()
    layer = norm("group", 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(maps)
    exact = layer(wide)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    assert found.is_contiguous(memory_format=memory_format)
    gradient = torch.randn_like(exact).bfloat16()
    found.backward(gradient)
    exact.backward(gradient.float())
    assert maps.grad is not None
    assert wide.grad is not None
    assert maps.grad.dtype is torch.bfloat16
    assert torch.equal(maps.grad, wide.grad.bfloat16())


# Upsampling.


@pytest.mark.parametrize("name", UPSAMPLINGS)
def test_upsampling_doubles_and_is_translation_equivariant(name: str) -> None:
    torch.manual_seed(0)
    layer, grid = upsample(name, 3, 5), torch.zeros(1, 3, 9, 9)
    grid[0, :, 4, 4] = 1.0
    images = layer(grid) - layer(torch.zeros_like(grid))
    assert images.shape == (1, 5, 18, 18)
    moved = layer(grid.roll(1, 3)) - layer(torch.zeros_like(grid))
    torch.testing.assert_close(moved, images.roll(2, 3), rtol=0, atol=1e-6)
    assert images.abs().sum() > 0


def test_pixelshuffle_interleaves_four_channels() -> None:
    layer, grid = upsample("pixelshuffle", 2, 3), torch.randn(1, 2, 4, 4)
    convolved, shuffled = layer[0](grid), layer(grid)  # type: ignore[index]
    for channel, row, column in product(range(3), range(2), range(2)):
        expected = convolved[:, 4 * channel + 2 * row + column]
        assert torch.equal(shuffled[:, channel, row::2, column::2], expected)


def test_nearest_upsampling_repeats_pixels_before_the_convolution() -> None:
    layer, grid = upsample("nearest", 2, 3), torch.randn(1, 2, 4, 4)
    repeated = grid.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(layer(grid), layer[1](repeated))  # type: ignore[index]


# Spectral norm.

LAYERS = {
    "convolution": lambda: nn.Conv2d(3, 8, 3),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 4),
    "linear": lambda: nn.Linear(9, 7),
    "projection": lambda: Projection(5, 12),
}


def matrix(layer: nn.Module) -> Tensor:
    """A layer's weight, outputs by all else."""
    weight = layer.weight.detach()
    weight = weight.movedim(1, 0) if isinstance(layer, nn.ConvTranspose2d) else weight
    return weight.flatten(1)  # type: ignore[no-any-return]


def largest(layer: nn.Module) -> float:
    return float(torch.linalg.matrix_norm(matrix(layer), 2))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_largest_singular_value_becomes_one(kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    before = matrix(layer).clone()
    add_spectral_norm(layer)
    for _ in range(100):
        _ = layer.weight
    assert abs(largest(layer) - 1) < 1e-2
    torch.testing.assert_close(
        matrix(layer), before / torch.linalg.matrix_norm(before, 2), rtol=1e-2, atol=1e-2 * float(before.abs().max())
    )


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_a_critic_has_unit_spectral_norm(name: str) -> None:
    _, critic = pair(name, critic={"spectral": True, "classes": CLASSES, "norm_name": "none"})
    for _ in range(200):
        critic(toy_batch(2).images, torch.tensor([0, 1]))
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear | Projection)]
    assert len(layers) >= 4
    assert all(abs(largest(layer) - 1) < 1e-2 for layer in layers)


def test_spectral_norm_agrees_with_torchs() -> None:
    torch.manual_seed(0)
    ours = nn.Conv2d(3, 8, 3)
    theirs = spectral_norm(copy.deepcopy(ours))
    add_spectral_norm(ours)
    images = torch.randn(2, 3, 8, 8)
    for _ in range(100):
        one, two = ours(images), theirs(images)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    for layer in (ours, theirs):
        layer(images).square().sum().backward()
    gradients = [layer.parametrizations.weight.original.grad for layer in (ours, theirs)]  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_it_iterates_in_training_only_and_two_passes_may_precede_one_backward() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(9, 7)
    add_spectral_norm(layer)
    before = layer.parametrizations.weight[0].u.clone()  # type: ignore[index,union-attr]
    layer.eval()(torch.randn(2, 9))
    assert torch.equal(layer.parametrizations.weight[0].u, before)  # type: ignore[index,union-attr]
    layer.train()
    (layer(torch.randn(2, 9)) + layer(torch.randn(2, 9))).sum().backward()
    assert not torch.equal(layer.parametrizations.weight[0].u, before)  # type: ignore[index,union-attr]


def test_an_average_of_nets_has_unit_spectral_norm_too() -> None:
    """The average of two nets' singular vectors is not the average net's: evaluation must not rely on it."""
    torch.manual_seed(0)
    nets = [nn.Linear(12, 12) for _ in range(2)]
    nn.init.eye_(nets[0].weight)
    nets[0].weight.data[0, 0] = 3.0
    nets[1].weight.data.copy_(nets[0].weight).add_(0.3 * torch.randn(12, 12))
    for net in nets:
        add_spectral_norm(net)
    mean = copy.deepcopy(nets[0]).eval()
    for average, other in zip(mean.state_dict().values(), nets[1].state_dict().values(), strict=True):
        average.lerp_(other, 0.5)
    assert abs(largest(mean) - 1) < 1e-2


def test_spectral_norm_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    plain = SpectralNorm(torch.randn(32, 64), 0).eval()
    weight = torch.randn(32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        cast = plain(weight)
    assert cast.dtype == torch.float32 and torch.equal(cast, plain(weight))


@pytest.mark.parametrize("name", NETS)
def test_copies_and_saved_weights_keep_the_iteration(name: str) -> None:
    shared = {"spectral": True, "classes": CLASSES}
    generator, _ = pair(name, generator=shared)
    for _ in range(3):
        generator(latents(), torch.tensor([0, 1, 2]))
    copied = copy.deepcopy(generator)
    torch.manual_seed(9)
    loaded = NETS[name].Generator(GeneratorShape(latent=LATENT, channels=1, size=16, width=4, **shared))
    loaded.load_state_dict(generator.state_dict())
    for other in (copied, loaded):
        for ours, theirs in zip(generator.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)
        given = (latents(), torch.tensor([0, 1, 2]))
        torch.testing.assert_close(other.eval()(*given), generator.eval()(*given), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_a_spectral_conditional_generator_exports(name: str) -> None:
    generator, _ = pair(name, generator={"spectral": True, "classes": CLASSES, "upsampling": "pixelshuffle"})
    batch = torch.export.Dim("batch")
    given = (latents(3), torch.tensor([0, 1, 2]))
    program = torch.export.export(generator.eval(), given, dynamic_shapes=({0: batch}, {0: batch}))
    other = (latents(5), torch.tensor([0, 1, 2, 3, 4]))
    torch.testing.assert_close(program.module()(*other), generator(*other), rtol=1e-4, atol=1e-5)
