"""Laws of ProGAN, BigGAN, StyleGAN2 and R3GAN: growth, norms, modulation, penalties, conditioning."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import toy_batch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, normalize, softplus

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import descend
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.nets import biggan, equalized, progan, r3gan, stylegan2
from pipeline.nets.resample import Resample
from pipeline.nets.shapes import PyramidShape

SMALL: dict[str, dict[str, Any]] = {
    "progan": {},
    "biggan": {"embedding": 4},
    "stylegan2": {"mapping_layers": 1},
    "r3gan": {"blocks": 1},
}
START = Clock(seen=0, total=1000)
SHAPE = PyramidShape(channels=1, size=16, width=4, max_width=8)


def made(name: str, **settings: Any) -> Any:
    return methods.load(name, **{"width": 4, "max_width": 16, "latent": 6, **SMALL[name], **settings})


def fresh(method: Any, channels: int = 1, size: int = 16) -> State:
    spec = ImageSpec(channels=channels, size=size, classes=10)
    return State.fresh(method, spec, 0, torch.device("cpu"))


def stepped(method: Any, clock: Clock = START, precision: str = "fp32") -> tuple[State, dict[str, Tensor]]:
    """A fresh state after one step of each phase, and the logs."""
    state = fresh(method)
    logs: dict[str, Tensor] = {}
    for phase in state.phases:
        logs |= descend(phase, state.nets, state.optimizers[phase.name], toy_batch(), clock, World(), precision)
    return state, logs


def latents(count: int = 6, size: int = 6) -> Tensor:
    return Noise(0, torch.arange(count)).normal("latents", size)


def shaken(net: Any) -> Any:
    """Every parameter away from the zeros that it may have begun at."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


# ---- ProGAN


def grown(net: Any, progress: float) -> Any:
    net.set_progress(progress)
    return net


@pytest.mark.parametrize("level", [0, 1])
def test_a_level_fades_in_without_a_jump(level: int) -> None:
    generator, critic = shaken(progan.Generator(SHAPE, latent=6)), shaken(progan.Critic(SHAPE))
    images = toy_batch().images
    for net, inputs in ((generator, latents()), (critic, images)):
        before, begun, half, almost, after = (
            grown(net, level + step)(inputs).detach() for step in (0, 1e-5, 0.5, 1 - 1e-5, 1)
        )
        scale = float((after - before).abs().max())
        assert scale > 1e-2  # the new level does change something
        torch.testing.assert_close(begun, before, rtol=0, atol=1e-4 * scale)
        torch.testing.assert_close(almost, after, rtol=0, atol=1e-4 * scale)
        assert (half - before).abs().max() > 0.2 * scale and (half - after).abs().max() > 0.2 * scale


def test_images_of_a_level_are_enlarged_to_the_datas_size() -> None:
    generator = shaken(progan.Generator(SHAPE, latent=6))
    for level in range(3):
        images = grown(generator, level)(latents())
        assert images.shape == (6, 1, 16, 16)
        block = 2 ** (2 - level)
        blocks = images.unfold(2, block, block).unfold(3, block, block)
        assert (blocks - blocks[..., :1, :1]).abs().max() == 0
        half = images[:, :, :: 2 * block, :: 2 * block]
        assert (images[:, :, block :: 2 * block, :: 2 * block] - half).abs().max() > 0


def test_real_images_fade_alike() -> None:
    images = toy_batch(channels=3).images
    torch.testing.assert_close(progan.faded(images, 2.0), images, rtol=0, atol=0)
    coarse = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(progan.faded(images, 1.0), coarse)
    torch.testing.assert_close(progan.faded(images, 1.25), torch.lerp(coarse, images, 0.25))
    critic = grown(shaken(progan.Critic(replace(SHAPE, channels=3))), 1.0)
    torch.testing.assert_close(critic(coarse), critic(images))


def test_growth_is_steady_and_ends_when_it_is_said_to() -> None:
    method = made("progan", growth=0.5)
    course = [method.progress(Clock(seen=seen, total=1000), steps=2) for seen in range(0, 1001, 5)]
    assert course[:21] == [0.0] * 21  # one of five stages trains the first level alone
    assert all(0 <= after - before < 0.06 for before, after in pairwise(course))
    assert course[40] == pytest.approx(1.0) and course[60] == pytest.approx(1.0) and course[80] == pytest.approx(2.0)
    assert course[100:] == [2.0] * 101


def test_progress_travels_with_the_weights_and_the_average() -> None:
    method = made("progan")
    state = fresh(method)
    method.set_progress(state.nets, Clock(seen=130, total=1000))
    state.update_average(8, half_life=0.0)
    assert state.ema["generator"].progress == state.nets["generator"].progress > 0
    other = method.build(ImageSpec(channels=1, size=16, classes=10))
    other.load_state_dict(state.nets.state_dict())
    for name in ("generator", "critic"):
        assert (other[name].level, other[name].fading) == (state.nets[name].level, True)
    torch.testing.assert_close(other["generator"](latents()), state.nets["generator"](latents()), rtol=0, atol=2e-6)
    assert copy.deepcopy(other["generator"]).level == 1


def test_equalized_layers_scale_unit_weights_by_hes_constant() -> None:
    layer, dense = equalized.EqualizedConv2d(50, 40, 3), equalized.EqualizedLinear(500, 40)
    slow = equalized.EqualizedLinear(500, 40, rate=0.01, bias=1.0)
    for weight, std in ((layer.weight, 1.0), (dense.weight, 1.0), (slow.weight, 100.0)):
        assert abs(float(weight.detach().std()) / std - 1) < 0.03
    for each in (layer, dense, slow):
        nn.init.ones_(each.weight)
    centre = torch.zeros(1, 50, 3, 3)
    centre[0, 0, 1, 1] = 1.0
    torch.testing.assert_close(layer(centre), torch.full((1, 40, 3, 3), math.sqrt(2 / (50 * 9))))
    torch.testing.assert_close(dense(torch.eye(500)[:1]), torch.full((1, 40), math.sqrt(2 / 500)))
    torch.testing.assert_close(slow(torch.eye(500)[:1]), torch.full((1, 40), 1.0 + 0.01 * math.sqrt(2 / 500)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3, 3)])
def test_pixel_norm_gives_unit_root_mean_square(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    power = equalized.pixel_norm(3 * torch.randn(shape)).square().mean(1)
    assert (power - 1).abs().max() < 1e-5


def test_minibatch_stddev_in_closed_form() -> None:
    maps = torch.zeros(8, 2, 3, 3)
    maps[:4, 0] = torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None, None]  # deviation 1 in one of two channels
    maps[4:] = 5.0
    out = equalized.minibatch_stddev(maps)
    assert torch.equal(out[:, :2], maps) and out.shape == (8, 3, 3, 3)
    expected = torch.tensor([0.5] * 4 + [0.0] * 4)[:, None, None].expand(8, 3, 3)
    torch.testing.assert_close(out[:, 2], expected, rtol=0, atol=2e-4)


def test_minibatch_stddev_is_that_of_contiguous_shares() -> None:
    maps = toy_batch(16).images
    whole, parts = equalized.minibatch_stddev(maps), [equalized.minibatch_stddev(part) for part in maps.chunk(2)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-7)
    pairs = torch.cat([equalized.minibatch_stddev(pair, 2) for pair in maps[:6].chunk(3)])
    torch.testing.assert_close(equalized.minibatch_stddev(maps[:6]), pairs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (8, 3)])
def test_progans_loss_on_a_linear_critic(count: int, channels: int) -> None:
    batch = toy_batch(count, channels=channels)
    fake = -batch.images
    weight = 3 * normalize(torch.ones(channels * 256), dim=0)
    terms = made("progan").critic_loss(lambda x: x.flatten(1) @ weight[:, None], batch.images, fake, batch, START)
    scores = batch.images.flatten(1) @ weight
    assert float(terms["penalty"]) == pytest.approx(10 * (3 - 1) ** 2, rel=1e-4)
    assert float(terms["distance"]) == pytest.approx(-2 * float(scores.mean()), rel=1e-4)
    assert float(terms["drift"]) == pytest.approx(0.001 * float(scores.square().mean()), rel=1e-4)


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


def test_resampling_keeps_a_constant_and_moves_nothing() -> None:
    resample, ones = Resample(), torch.ones(2, 3, 8, 8)
    for result, size in ((resample.up(ones), 16), (resample.down(ones), 4), (resample.blur(ones, margin=2), 9)):
        assert result.shape == (2, 3, size, size)
        assert (result[:, :, 2:-2, 2:-2] - 1).abs().max() < 1e-6 if size > 4 else (result[:, :, 1:-1, 1:-1] == 1).all()
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    inner = (resample.up(ramp)[0, 0, 8, 2:-2] - (torch.arange(2.0, 14.0) - 0.5) / 2).abs()
    assert inner.max() < 1e-5  # pixel centres stay where they are
    assert (resample.down(ramp)[0, 0, 2, 1:-1] - torch.tensor([2.5, 4.5])).abs().max() < 1e-6


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
    other, logs = stepped(method, replace(START, turn=1))
    assert logs["generator/path"] == 0 and other.nets["generator"].path_mean == 0
    before = due.nets["generator"].path_mean.clone()
    due.nets["generator"].follow(World())
    assert due.nets["generator"].path_mean == before


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (8, 3)])
def test_stylegan2s_r1_is_lazy_and_scaled(count: int, channels: int) -> None:
    method, batch = made("stylegan2", gamma=2.0), toy_batch(count, channels=channels)
    weight = 3 * normalize(torch.ones(channels * 256), dim=0)
    for turn, expected in ((0, 16 * 9.0), (1, 0.0), (16, 16 * 9.0)):
        clock = replace(START, turn=turn)
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


# ---- BigGAN


def big_generator(**settings: Any) -> biggan.Generator:
    options = {"latent": 7, "embedding": 4, "norm_name": "batch", "attention": 2, **settings}
    return shaken(biggan.Generator(replace(SHAPE, classes=10), **options)).eval()


def test_the_conditional_norm_scales_and_shifts_by_the_embedding() -> None:
    layer = shaken(biggan.ConditionalNorm("none", 3, 4))
    maps, embedding = toy_batch(6, channels=3).images, latents(6, 4)
    scale, shift = embedding @ layer.scale.weight.t(), embedding @ layer.shift.weight.t()
    expected = maps * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(layer(maps, embedding), expected)
    normed = biggan.ConditionalNorm("batch", 3, 4)(maps, torch.zeros(6, 4))
    assert normed.mean((0, 2, 3)).abs().max() < 1e-5 and (normed.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_the_label_changes_the_image_and_the_score() -> None:
    generator, images = big_generator(), toy_batch(6).images
    critic = shaken(biggan.Critic(replace(SHAPE, classes=10), attention=2)).eval()
    one, two = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    assert ((generator(latents(6, 7), one) - generator(latents(6, 7), two)).abs().flatten(1).amax(1) > 1e-4).all()
    features: list[Tensor] = []
    critic.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    difference = critic(images, one) - critic(images, two)
    directions = critic.head.projection.weight[0] - critic.head.projection.weight[1]
    torch.testing.assert_close(difference, (features[0] @ directions)[:, None])
    assert difference.abs().min() > 1e-6


def test_every_part_of_the_latents_matters() -> None:
    generator, labels = big_generator(), torch.zeros(6, dtype=torch.int64)
    assert generator.parts == [3, 2, 2]
    image = generator(latents(6, 7), labels)
    for k in range(7):
        moved = latents(6, 7)
        moved[:, k] += 1.0
        assert (generator(moved, labels) - image).abs().max() > 1e-5


def test_self_attention_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    layer, maps = biggan.Attention(16), toy_batch(3, channels=16, size=8).images
    assert torch.equal(layer(maps), maps)
    nn.init.ones_(layer.gamma)
    pool = nn.MaxPool2d(2)
    query, key, value = layer.query(maps), pool(layer.key(maps)), pool(layer.value(maps))
    expected = torch.empty(3, 8, 8, 8)
    for n in range(3):
        for i in range(8):
            for j in range(8):
                weights = torch.einsum("c,chw->hw", query[n, :, i, j], key[n]).flatten().softmax(0)
                expected[n, :, i, j] = value[n].flatten(1) @ weights
    torch.testing.assert_close(layer(maps) - maps, layer.out(expected), rtol=0, atol=1e-5)


def test_attention_is_where_it_is_said_to_be() -> None:
    for attention, kinds in ((0, [False, False]), (2, [True, False]), (1, [False, True])):
        critic = biggan.Critic(replace(SHAPE, classes=10), attention=attention)
        assert [isinstance(layer, biggan.Attention) for layer in big_generator(attention=attention).attentions] == kinds
        after = [attention == 2, False]  # the critic's blocks give 8 and 4 pixels
        assert [isinstance(layer, biggan.Attention) for layer in critic.attentions] == after


def test_the_orthogonal_penalty() -> None:
    torch.manual_seed(0)
    rows = nn.init.orthogonal_(torch.empty(4, 2, 3, 3)) * torch.arange(1.0, 5.0)[:, None, None, None]
    assert biggan.orthogonal_penalty(rows).abs() < 1e-3  # of rows whose squares' squares sum to 354
    assert float(biggan.orthogonal_penalty(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))) == pytest.approx(2.0)
    for shape in ((3, 20), (20, 3), (5, 2, 3, 3)):
        weight = torch.randn(shape, dtype=torch.float64)
        product = weight.flatten(1) @ weight.flatten(1).t()
        naive = (product * (1 - torch.eye(shape[0]))).square().sum()
        torch.testing.assert_close(biggan.orthogonal_penalty(weight), naive, rtol=1e-10, atol=0)


def test_orthogonality_is_of_all_weights_but_the_shared_embedding() -> None:
    generator = big_generator()
    generator.orthogonality().backward()
    touched = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, p in generator.named_parameters() if p.ndim > 1} - {"embedding.weight"}


def test_biggans_layers_have_spectral_norm_one() -> None:
    method = made("biggan", width=8)
    state, _ = stepped(method)
    for net in (state.nets["generator"], state.nets["critic"]):
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        values = [float(torch.linalg.matrix_norm(m.eval().weight.detach().flatten(1), ord=2)) for m in layers]
        assert len(values) > 10 and all(abs(value - 1) < 0.02 for value in values)


# ---- R3GAN


def test_equal_images_cost_log_two() -> None:
    method, batch = made("r3gan"), toy_batch()
    critic = shaken(r3gan.Critic(SHAPE, blocks=1, group_width=4))
    for terms in (
        method.critic_loss(critic, batch.images, batch.images, batch, START),
        method.generator_loss(critic, batch.images, batch.images, batch, START),
    ):
        assert float(terms["pairing"]) == float(softplus(torch.zeros(()))) == pytest.approx(math.log(2), abs=1e-7)


def test_the_pairing_loss_is_antisymmetric() -> None:
    method, batch = made("r3gan"), toy_batch()
    critic = shaken(r3gan.Critic(SHAPE, blocks=1, group_width=4))
    real, fake = batch.images, -batch.images
    of_critic = method.critic_loss(critic, real, fake, batch, START)["pairing"]
    of_generator = method.generator_loss(critic, real, fake, batch, START)["pairing"]
    torch.testing.assert_close(method.generator_loss(critic, fake, real, batch, START)["pairing"], of_critic)
    margin = (critic(real) - critic(fake)).mean()
    torch.testing.assert_close(of_generator - of_critic, margin)
    assert margin.abs() > 1e-4


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (8, 3)])
def test_r1_and_r2_on_a_linear_critic(count: int, channels: int) -> None:
    method, batch = made("r3gan", gamma=4.0, final_gamma=1.0), toy_batch(count, channels=channels)
    weight = 3 * normalize(torch.ones(channels * 256), dim=0)
    for seen, gamma in ((0, 4.0), (500, 2.5), (1000, 1.0)):
        clock = Clock(seen=seen, total=1000)
        terms = method.critic_loss(lambda x: x.flatten(1) @ weight[:, None], batch.images, batch.images, batch, clock)
        for name in ("r1", "r2"):
            assert float(terms[name]) == pytest.approx(gamma / 2 * 9, rel=1e-4)


def test_beta2_rises_and_the_learning_rate_falls() -> None:
    for phase in made("r3gan").phases():
        first, last = (phase.settings(Clock(seen=seen, total=1000)) for seen in (0, 1000))
        assert first["betas"] == pytest.approx((0.0, 0.9)) and last["betas"] == pytest.approx((0.0, 0.99))
        assert first["lr"] == pytest.approx(2e-4) and last["lr"] == pytest.approx(0.0, abs=1e-12)
    assert all("betas" not in phase.settings(START) for phase in made("r3gan", optimizer="rmsprop").phases())


def test_blocks_begin_as_the_identity_with_fixup_scales() -> None:
    torch.manual_seed(0)
    block, maps = r3gan.Block(64, 16, depth=8), torch.randn(2, 64, 8, 8)
    assert torch.equal(block(maps), maps)
    assert block.mix.groups == 8 and block.expand.out_channels == 128
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    assert float(block.expand.weight.std()) == pytest.approx(gain / math.sqrt(64), rel=0.05)
    assert float(block.mix.weight.std()) == pytest.approx(gain / math.sqrt(9 * 16), rel=0.05)
    nn.init.normal_(block.shrink.weight)
    assert (block(maps) - maps).abs().max() > 0.1


# ---- All four


@pytest.mark.parametrize("name", ["stylegan2", "r3gan"])
def test_conditional_nets_use_the_label(name: str) -> None:
    method = made(name, conditional=True)
    nets, batch = fresh(method).nets, toy_batch(6)
    for parameter in nets.parameters():
        if not parameter.abs().max():
            nn.init.normal_(parameter, 0.0, 0.1)
    other = replace(batch, labels=(batch.labels + 1) % 10)
    assert (method.sample(nets, batch) - method.sample(nets, other)).abs().max() > 1e-4
    scores = [nets["critic"](batch.images, each.labels) for each in (batch, other)]
    assert (scores[0] - scores[1]).abs().min() > 1e-6
    with pytest.raises(ValueError, match="conditional"):
        method.build(ImageSpec(channels=1, size=16, classes=0))


@pytest.mark.parametrize("name", SMALL)
def test_adaptive_augmentation_watches_the_real_images(name: str) -> None:
    state, _ = stepped(made(name, critic_augment="ada"))
    assert state.nets["augment"].images > 0


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_is_near_full_precision(name: str) -> None:
    _, full = stepped(made(name))
    _, half = stepped(made(name), precision="bf16")
    for key in full:
        if not key.endswith("gradient_norm"):
            assert float(half[key]) == pytest.approx(float(full[key]), rel=0.05, abs=0.02), key


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "size"), [(3, 28), (1, 128)])
def test_other_sizes_train(name: str, channels: int, size: int) -> None:
    method = made(name, latent=8)
    state = fresh(method, channels, size)
    method.set_progress(state.nets, Clock(seen=1000, total=1000))
    ids = torch.arange(4)
    images = Noise(1, ids).uniform("images", channels, size, size) * 2 - 1
    batch = Batch(images=images, labels=ids % 10, noise=Noise(0, ids))
    for phase in state.phases:
        logs = descend(phase, state.nets, state.optimizers[phase.name], batch, START, World())
        assert all(value.isfinite() for value in logs.values())
    assert method.sample(state.nets.eval(), batch).shape == (4, channels, size, size)
