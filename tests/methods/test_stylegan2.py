"""Laws of StyleGAN2: modulation, path lengths, lazy penalties, mixing, truncation, noise."""

from dataclasses import replace

import pytest
import torch
from small_gans import SHAPE, START, fresh, latents, made, shaken, stepped
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, normalize
from toy_data import toy_batch

from pipeline.core.loop import descend
from pipeline.core.world import World
from pipeline.nets import stylegan2

# ---- StyleGAN2


def naive(layer: stylegan2.ModulatedConv2d, maps: Tensor, w: Tensor) -> Tensor:
    """The definition: each sample's own weights, modulated and demodulated, and its own convolution."""
    images = []
    for one, style in zip(maps, layer.style(w), strict=True):
        weight = layer.conv.weight * layer.conv.scale * style[None, :, None, None]
        if layer.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.upsample:
            wide = conv_transpose2d(one[None], weight.transpose(0, 1), stride=2)
            images.append(layer.resample.blur(wide, margin=1, gain=4.0))
        else:
            images.append(conv2d(one[None], weight, padding=weight.shape[-1] // 2))
    return torch.cat(images)


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_the_modulated_convolution_is_the_naive_one(demodulate: bool, upsample: bool) -> None:
    layer = stylegan2.ModulatedConv2d(5, 7, 3, styles=6, demodulate=demodulate, upsample=upsample).double()
    maps, w = toy_batch(4, channels=5, size=8).images.double(), latents(4).double()
    torch.testing.assert_close(layer(maps, w), naive(layer, maps, w), rtol=0, atol=1e-10)
    assert (layer(maps, w) - layer(maps, w.flip(0))).abs().max() > 1e-2


def test_demodulated_outputs_have_unit_deviation_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = stylegan2.ModulatedConv2d(16, 8, 3, styles=6)
    maps = torch.randn(8, 16, 34, 34)
    for scale in (0.1, 10.0):
        inner = layer(maps, scale * latents(8)).detach()[:, :, 1:-1, 1:-1]
        assert abs(float(inner.std()) - 1) < 0.02
    plain = stylegan2.ModulatedConv2d(16, 8, 3, styles=6, demodulate=False)
    assert float(plain(maps, 10 * latents(8)).detach().std()) > 2


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_styled_convolution_is_its_definition(noisy: bool, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = stylegan2.StyledConv(5, 7, styles=6).double()
    nn.init.normal_(layer.bias)
    nn.init.normal_(layer.strength)
    maps = toy_batch(4, channels=5, size=8).images.double().contiguous(memory_format=memory_format)
    w, noise = latents(4).double(), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    shift = layer.bias[:, None, None] + (layer.strength * noise if noisy else 0.0)
    expected = 2**0.5 * leaky_relu(naive(layer.conv, maps, w) + shift, 0.2)
    found = layer(maps, w, noise if noisy else None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert found.is_contiguous(memory_format=memory_format)


def test_the_path_length_of_a_linear_generator() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, 5, 12, dtype=torch.float64)  # L styles of z = 5 to 3 x 2 x 2 pixels
    styles = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    images = torch.einsum("nlz,lzp->np", styles, matrix).view(4, 3, 2, 2)
    directions = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    pulled = torch.einsum("lzp,np->nlz", matrix, directions.flatten(1)) / 2  # the root of 4 pixels
    expected = pulled.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(stylegan2.path_lengths(images, styles, directions), expected, rtol=0, atol=1e-10)


def test_the_path_penalty_is_lazy_and_follows_its_mean() -> None:
    method = made("stylegan2")
    due, logs = stepped(method)
    length = float(due.nets["generator"].path_mean) / (1 - stylegan2.PATH_DECAY)
    assert length > 0 and due.nets["generator"].path_latest == due.nets["generator"].path_mean
    spread = float(logs["generator/path"]) / (method.path_weight * method.path_every)  # about a mean of 0
    assert spread == pytest.approx(length**2, rel=0.5) and spread >= length**2
    other, logs = stepped(method, replace(START, iteration=1))
    assert logs["generator/path"] == 0 and other.nets["generator"].path_mean == 0
    before = due.nets["generator"].path_mean.clone()
    due.nets["generator"].follow(World())
    assert due.nets["generator"].path_mean == before


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (8, 3)])
def test_stylegan2s_r1_is_lazy_and_scaled(count: int, channels: int) -> None:
    method, batch = made("stylegan2", gamma=2.0), toy_batch(count, channels=channels)
    weight = 3 * normalize(torch.ones(channels * 256), dim=0)
    for iteration, expected in ((0, 16 * 9.0), (1, 0.0), (16, 16 * 9.0)):
        clock = replace(START, iteration=iteration)
        terms = method.critic_loss(lambda x: x.flatten(1) @ weight[:, None], batch.images, batch.images, batch, clock)
        assert float(terms["r1"]) == pytest.approx(expected, rel=1e-4)


def test_style_mixing_uses_both_latents() -> None:
    generator = shaken(stylegan2.Generator(SHAPE, latent=6, mapping_layers=1))
    first, second = generator.mapping(latents()), generator.mapping(latents().flip(0))
    layers = generator.styles
    mixed = generator.mixed(first, second, torch.tensor([1, 2, 3, layers - 1, layers, layers]))
    assert torch.equal(mixed[1, :2], first[1].expand(2, -1)) and torch.equal(mixed[1, 2:], second[1].expand(4, -1))
    assert torch.equal(mixed[4:], generator.repeated(first)[4:])
    images, of_first, of_second = map(
        generator.synthesis, (mixed, generator.repeated(first), generator.repeated(second))
    )
    for other in (of_first, of_second):
        assert ((images - other).abs().flatten(1).amax(1)[:4] > 1e-3).all()
    torch.testing.assert_close(images[4:], of_first[4:], rtol=0, atol=1e-6)


def test_mixing_happens_in_training_alone_and_as_often_as_it_is_said() -> None:
    nets, batch = fresh(made("stylegan2")).nets, toy_batch(400)
    shares = []
    for mixing in (0.0, 0.5, 1.0):
        styles = made("stylegan2", mixing=mixing)._styles(nets, batch)
        shares.append(float((styles != styles[:, :1]).any(2).any(1).float().mean()))
        assert (styles[:, 0] == nets["generator"].mapping(made("stylegan2").latents(batch))).all()
    assert shares[0] == 0 and abs(shares[1] - 0.5) < 0.1 and shares[2] == 1


def test_truncation_moves_to_the_mean_image() -> None:
    method = made("stylegan2")
    nets = stepped(method)[0].nets.eval()
    mapping, batch = nets["generator"].mapping, toy_batch(6)
    assert mapping.average.abs().max() > 0
    for layer in nets["generator"].modules():
        if isinstance(layer, stylegan2.StyledConv):
            nn.init.zeros_(layer.strength)

    def at(psi: float | None) -> Tensor:
        return method.sample(nets, replace(batch, noise=replace(batch.noise, truncation=psi)))

    mean = nets["generator"].synthesis(nets["generator"].repeated(mapping.average[None]))
    torch.testing.assert_close(at(0.0), mean.expand(6, -1, -1, -1), rtol=0, atol=1e-6)
    torch.testing.assert_close(at(1.0), at(None), rtol=0, atol=1e-6)
    spread = [float(at(psi).std(0).mean()) for psi in (0.3, 0.7, 1.0)]
    assert 0 < spread[0] < spread[1] < spread[2]


def test_the_mean_style_follows_the_batches() -> None:
    state = fresh(made("stylegan2"))
    generator, _ = state.phases
    descend(generator, state.nets, state.optimizers["generator"], toy_batch(), START, World())
    mapping = state.nets["generator"].mapping
    torch.testing.assert_close(mapping.average, (1 - stylegan2.STYLE_DECAY) * mapping.latest)
    assert mapping.latest.abs().max() > 0


def test_noise_reaches_every_layer_of_the_synthesis() -> None:
    generator = shaken(stylegan2.Generator(SHAPE, latent=6, mapping_layers=1))
    styles, noise = generator.repeated(generator.mapping(latents(1))), torch.zeros(1, sum(generator.noises))
    still = generator.synthesis(styles, noise)
    torch.testing.assert_close(generator.synthesis(styles), still)
    for part in noise.split(generator.noises, dim=1):  # views: each layer's in turn
        part.fill_(1.0)
        assert (generator.synthesis(styles, noise) - still).abs().max() > 1e-4
        part.zero_()


def test_without_noise_the_latents_alone_make_the_image() -> None:
    noisy, still = made("stylegan2"), made("stylegan2", noise=False)
    nets = stepped(noisy)[0].nets.eval()
    for layer in nets["generator"].modules():
        if isinstance(layer, stylegan2.StyledConv):
            nn.init.ones_(layer.strength)
    batch = toy_batch(4)
    images = still.sample(nets, batch)
    torch.testing.assert_close(images, nets["generator"](still.latents(batch), batch.labels), rtol=0, atol=1e-6)
    assert (noisy.sample(nets, batch) - images).abs().max() > 1e-2
    state, _ = stepped(still)
    strengths = [layer.strength for layer in state.nets["generator"].modules() if hasattr(layer, "strength")]
    assert strengths and all(float(strength) == 0 for strength in strengths)
