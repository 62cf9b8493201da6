"""Laws of ProGAN, BigGAN, StyleGAN2 and R3GAN: growth, norms, modulation, penalties, conditioning."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_gans import SHAPE, SMALL, START, fresh, latents, made, shaken, stepped
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus
from toy_data import toy_batch

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import descend
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.nets import biggan, progan, r3gan

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
