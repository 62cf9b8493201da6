"""pix2pix: the terms of its losses, its noise, its scores, and what it is sampled beside."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from examinations import SPEC, materials
from samplers import trained as as_trained
from torch import Tensor, nn
from toy_data import toy_batch, toy_split

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec, to_uint8
from pipeline.core.loop import fit
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import domains, open_dataset
from pipeline.data.stream import batches
from pipeline.data.views import VIEWS
from pipeline.evaluate.chunks import Subject
from pipeline.evaluate.extraction import generate
from pipeline.inference.generate import batches as rows
from pipeline.inference.generate import drawn_beside, scores_of
from pipeline.inference.weights import save_weights
from pipeline.nets.skip_translator import SkipTranslator
from pipeline.watch.look import fixed_images

CLOCK = Clock(seen=0, total=100)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Scaled(nn.Module):
    """G(a) = a / 2, without noise."""

    def forward(self, images: Tensor, noise: Noise | None) -> Tensor:
        return images / 2


class Weighed(nn.Module):
    """D(a, b) = 3 a + b, for each pixel a patch."""

    def forward(self, both: Tensor) -> Tensor:
        a, b = both.chunk(2, dim=1)
        return 3 * a + b


def pair(a: float, b: float, count: int = 3) -> Batch:
    shape, ids = (count, 1, 4, 4), torch.arange(count)
    return Batch(images=torch.full(shape, a), other=torch.full(shape, b), labels=ids * 0, noise=Noise(0, ids))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
def test_the_terms_have_their_closed_forms(kind: str, shared: bool) -> None:
    method = methods.load("pix2pix", adversarial=kind, reconstruction=20.0)
    nets, batch, a, b = nn.ModuleDict({"generator": Scaled(), "critic": Weighed()}), pair(0.4, -0.3), 0.4, -0.3
    generator, critic = method.phases()
    on_fake, on_real = 3 * a + a / 2, 3 * a + b
    fooling = softplus(-on_fake) if kind == "vanilla" else (on_fake - 1) ** 2
    loss, terms = generator.loss(nets, batch, CLOCK)
    expected = {"fooling": fooling, "reconstruction": 20 * abs(a / 2 - b)}
    assert {key: float(value) for key, value in terms.items()} == pytest.approx(expected, abs=1e-5)
    assert float(loss) == pytest.approx(sum(expected.values()), abs=1e-5)
    real, fake = (softplus(-on_real), softplus(on_fake)) if kind == "vanilla" else ((on_real - 1) ** 2, on_fake**2)
    loss, terms = critic.loss(nets, batch if shared else pair(a, b), CLOCK)
    expected = {"real": real / 2, "fake": fake / 2}
    assert {key: float(value) for key, value in terms.items()} == pytest.approx(expected, abs=1e-5)
    assert float(loss) == pytest.approx(sum(expected.values()), abs=1e-5) and (not batch.shared) == shared


def test_scores_are_the_distance_to_the_partner() -> None:
    method, nets = methods.load("pix2pix"), nn.ModuleDict({"generator": Scaled(), "critic": Weighed()})
    found = method.scores(nets, pair(0.4, -0.3))
    assert found["l1"].tolist() == pytest.approx([0.25] * 3, abs=1e-6)
    assert found["psnr"].tolist() == pytest.approx([-20 * math.log10(0.25)] * 3, abs=1e-4)
    same = method.scores(nets, pair(0.4, 0.2))
    assert same["psnr"].tolist() == pytest.approx([100.0] * 3), "no infinity"


def translator(dropout: float = 0.5, levels: int = 4) -> SkipTranslator:
    torch.manual_seed(0)
    known: dict[str, Any] = {"norm_name": "instance", "upsampling": "transposed"}
    return SkipTranslator(channels=1, size=16, width=4, levels=levels, dropout=dropout, **known)


def test_dropout_belongs_to_the_sample_in_training_and_in_sampling() -> None:
    net, batch = translator(), toy_batch(6)
    with torch.no_grad():
        net.train()
        whole = net(batch.images, batch.noise)
        torch.rand(3)  # torch's own generator has no say
        parts = [net(part.images, part.noise) for part in (batch.take(slice(0, 2)), batch.take(slice(2, 6)))]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(net.eval()(batch.images, batch.noise), whole, rtol=0, atol=1e-5)
        again = net(batch.images, batch.noise.stream("again"))
        plain = net(batch.images, None)
    for different in (again, plain):
        assert (whole - different).abs().flatten(1).mean(1).min() > 1e-4
    with torch.no_grad():
        undropped = translator(dropout=0.0)(batch.images, batch.noise)
        torch.testing.assert_close(undropped, plain, rtol=0, atol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    maps, ids = torch.ones(4000, 3, 2, 2), torch.arange(4000)
    dropped = translator(dropout=0.3)._dropped(maps, Noise(0, ids), 0)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.015)


def test_the_skips_carry_the_image_around_the_bottleneck() -> None:
    """Without the innermost map, pixels still reach the output."""
    net, images = translator(dropout=0.0), toy_batch(2).images
    innermost = net.up[0]
    innermost.register_forward_hook(lambda module, inputs, output: output * 0)
    with torch.no_grad():
        assert (net(images, None) - net(images.flip(0), None)).abs().mean() > 1e-3


def test_a_partner_is_said_to_be_missing() -> None:
    method = methods.load("pix2pix", width=4)
    nets = method.build(ImageSpec(channels=1, size=16))
    batch = toy_batch()
    for phase in method.phases():
        with pytest.raises(ValueError, match="partner"):
            phase.loss(nets, Batch(images=batch.images, labels=batch.labels, noise=batch.noise), CLOCK)


def test_samples_are_drawn_beside_test_images() -> None:
    assert drawn_beside(methods.load("pix2pix"), "train") == "test"
    assert drawn_beside(methods.load("cyclegan"), "train") == drawn_beside(methods.load("dcgan"), "train") == "train"


def test_a_look_sees_pairs_too(tmp_path: Path) -> None:
    whole = open_dataset(materials(tmp_path).data)
    first, second = domains(whole, ("edges", "images"), VIEWS)
    for batch in fixed_images(first, second, torch.device("cpu"), at_a_time=7):
        assert batch.other is not None
        pixels = to_uint8(batch.other).permute(0, 2, 3, 1)
        assert torch.equal(to_uint8(batch.images).permute(0, 2, 3, 1), VIEWS["edges"](pixels))


def test_an_evaluation_scores_and_samples_held_out_pairs(tmp_path: Path) -> None:
    toy = materials(tmp_path, samples=12, batch_size=5)
    method = methods.load("pix2pix", width=4)
    found = as_trained(method, SPEC)
    path = tmp_path / "pix" / "weights.safetensors"
    path.parent.mkdir()
    save_weights(path, name="pix2pix", params={"width": 4}, spec=SPEC, seen=8, nets=found.nets, ema=nn.ModuleDict())
    given = replace(toy, weights=path, classes=("edges", "images"))
    assert isinstance(given.subject(), Subject)
    (out := tmp_path / "out").mkdir()
    generate(out, given)
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol["images"]["split"] == "test" and protocol["images"]["count"] == 12
    values = json.loads((out / "scores.json").read_text())["values"]
    split = open_dataset(toy.data).splits["test"]
    subject = given.subject()
    plan: dict[str, Any] = {"seed": 0, "batch_size": 12, "device": "cpu", "paired": True, "other": split}
    like = rows(split.seen_as(VIEWS["edges"]), subject.scored_rows, **plan)
    (whole,) = scores_of(found, like)
    assert values == pytest.approx({name: float(value.mean()) for name, value in whole.items()}, rel=1e-4)


def test_it_learns_to_turn_negatives_back() -> None:
    """From images to their negatives in a few hundred iterations: the error falls to a fraction."""
    method = methods.load("pix2pix", width=8, levels=2, lr=2e-3, dropout=0.0)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, torch.device("cpu"))
    split = toy_split(256)
    negatives = split.seen_as(lambda images: 255 - images)
    stream = batches(split, seed=0, batch_size=8, world=World(), other=negatives, paired=True)
    batch = toy_batch(32, first=1000)

    def error() -> float:
        return float(method.scores(state.averaged().eval(), batch)["l1"].mean())

    before = error()
    for _ in fit(method, state, stream, World(), seed=0, total=1_600, ema_half_life=100.0):
        pass
    after = error()
    assert before > 0.15 and after < 0.06, (before, after)
