"""Laws of the codebook, of VQ-VAE's loss and of the Transformer over its codes."""

import math
from itertools import product

import pytest
import torch
from small_codebooks import codebook, features
from torch import Tensor, nn
from toy_data import toy_batch
from toys import judge, ring

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec, to_unit_range
from pipeline.core.loop import fit
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.families.vq import straight_through
from pipeline.inference.export import Sampler
from pipeline.inference.weights import Trained
from pipeline.nets.codebook import draw
from pipeline.nets.transformer import Transformer
from pipeline.nets.vq import Decoder, Encoder

SPEC = ImageSpec(channels=1, size=16, classes=10)
CLOCK = Clock(seen=0, total=1000)
SMALL = {"width": 8, "codes": 16, "embedding": 5, "grid": 4, "blocks": 1}
TRANSFORMER = {"transformer_width": 16, "layers": 2, "heads": 2}


# ---- The codebook


def test_the_straight_through_value_is_the_code_and_its_gradient_the_identity() -> None:
    vectors, book = features().requires_grad_(True), codebook()
    quantized = book(book.nearest(vectors))
    through = straight_through(vectors, quantized)
    torch.testing.assert_close(through, quantized, rtol=0, atol=1e-6)
    weights = features(seed=1)
    (gradient,) = torch.autograd.grad((through * weights).sum(), vectors)
    assert torch.equal(gradient, weights)


# ---- The nets


@pytest.mark.parametrize(("size", "grid"), [(16, 16), (16, 8), (28, 7), (32, 8), (128, 8)])
def test_encoder_and_decoder_have_the_grid_asked_for(size: int, grid: int) -> None:
    shape = {"channels": 3, "size": size, "grid": grid, "width": 4, "dim": 6, "blocks": 1}
    vectors = Encoder(**shape)(torch.zeros(2, 3, size, size))
    assert vectors.shape == (2, 6, grid, grid)
    assert Decoder(**shape)(vectors).shape == (2, 3, size, size)


@pytest.mark.parametrize("grid", [3, 5, 32])
def test_a_grid_that_does_not_fit_is_refused(grid: int) -> None:
    with pytest.raises(ValueError, match="grid"):
        methods.load("vqvae", grid=grid).build(SPEC)


# ---- VQ-VAE


def small(name: str, **settings: object) -> Method:
    more = TRANSFORMER if name == "vq_transformer" else {}
    return methods.load(name, **(SMALL | more | settings))


class Fixed(nn.Module):
    """Gives its parameter, whatever it is asked."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.value


def test_the_commitments_gradient_in_closed_form() -> None:
    method = small("vqvae", commitment=0.7)
    nets = method.build(SPEC)
    nets["encoder"], nets["decoder"] = Fixed(features()), Fixed(torch.zeros(8, 1, 16, 16))  # blind to the codes
    (phase,) = method.phases()
    loss, logs = phase.loss(nets, toy_batch(), CLOCK)
    book, vectors = nets["codebook"], features()
    difference = vectors - book(book.nearest(vectors))
    torch.testing.assert_close(logs["commitment"], difference.square().mean())
    (gradient,) = torch.autograd.grad(loss, nets["encoder"].value)
    torch.testing.assert_close(gradient, 0.7 * 2 * difference / difference.numel(), rtol=1e-5, atol=1e-9)


def test_the_reconstructions_gradient_reaches_the_encoder_as_if_there_were_no_codes() -> None:
    method = small("vqvae", commitment=0.0, likelihood="gaussian", scale=1.0)
    nets, batch = method.build(SPEC), toy_batch()
    nets["encoder"] = Fixed(features())
    (phase,) = method.phases()
    loss, _ = phase.loss(nets, batch, CLOCK)
    (gradient,) = torch.autograd.grad(loss, nets["encoder"].value)
    quantized = nets["codebook"](nets["codebook"].nearest(features())).requires_grad_(True)
    nats = -nets["likelihood"](batch.images, nets["decoder"](quantized), batch.noise).mean() / 256
    (expected,) = torch.autograd.grad(nats, quantized)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)
    assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("name", ["vqvae", "vqgan", "vq_transformer"])
def test_a_batch_twice_has_the_loss_of_one(name: str) -> None:
    method = small(name)
    nets, batch = method.build(SPEC), toy_batch()
    ids = batch.noise.ids.repeat(2)
    twice = Batch(images=batch.images.repeat(2, 1, 1, 1), labels=batch.labels.repeat(2), noise=Noise(0, ids))
    for phase in method.phases():
        torch.testing.assert_close(*(phase.loss(nets, b, CLOCK)[0] for b in (batch, twice)), rtol=1e-5, atol=0)


def test_vqvae_trains_and_validates_alike() -> None:
    method = small("vqvae")
    nets, batch = method.build(SPEC), toy_batch()
    _, logs = method.phases()[0].loss(nets.train(), batch, CLOCK)
    score = method.scores(nets.eval(), batch)["elbo_bits_per_dim"].mean()
    prior = 16 * math.log(16) / 256  # an untrained codebook uses its 16 codes alike, at 16 places
    torch.testing.assert_close(score * math.log(2), logs["reconstruction"] + prior, rtol=1e-5, atol=0)


def test_vqvae_samples_the_codes_as_often_as_they_are_used() -> None:
    method = small("vqvae")
    nets = method.build(SPEC).eval()
    nets["codebook"].usage.fill_(0.0)[5] = 1.0
    with torch.inference_mode():
        constant = method.image(nets, torch.full((1, 4, 4), 5))
        torch.testing.assert_close(method.sample(nets, toy_batch(3)), constant.expand(3, -1, -1, -1))
        nets["codebook"].usage[6] = 1.0
        mixed = method.sample(nets, toy_batch(3))
    assert (mixed - constant).abs().amax((1, 2, 3)).min() > 1e-4


# ---- The Transformer


@pytest.fixture
def transformer() -> Transformer:
    """Over sequences of 4 codes out of 3, with weights large enough that all of them matter."""
    torch.manual_seed(0)
    net = Transformer(codes=3, length=4, classes=2, width=8, layers=2, heads=2).eval().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.5)
    return net


def sequences() -> Tensor:
    """(81, 4): every sequence there is."""
    return torch.tensor(list(product(range(3), repeat=4)))


@pytest.mark.parametrize("label", [0, 1])
def test_the_probabilities_of_all_sequences_sum_to_one(transformer: Transformer, label: int) -> None:
    every = sequences()
    log_probability = transformer(every, torch.full((81,), label)).log_softmax(-1)
    log_probability = log_probability.gather(-1, every[..., None]).sum((1, 2))
    torch.testing.assert_close(log_probability.exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-5)
    assert log_probability.exp().max() > 3 / 81  # and they are not all alike


@pytest.mark.parametrize("position", range(4))
def test_a_code_changes_the_logits_after_it_and_none_before(transformer: Transformer, position: int) -> None:
    codes, labels = sequences()[10:20], torch.zeros(10, dtype=torch.int64)
    changed = codes.clone()
    changed[:, position] = (changed[:, position] + 1) % 3
    difference = (transformer(codes, labels) - transformer(changed, labels)).abs().amax((0, 2))
    assert (difference[: position + 1] == 0).all()
    assert (difference[position + 1 :] > 1e-4).all()


def test_the_class_changes_every_position(transformer: Transformer) -> None:
    codes = sequences()[10:20]
    logits = [transformer(codes, torch.full((10,), label)) for label in (0, 1)]
    assert ((logits[0] - logits[1]).abs().amax((0, 2)) > 1e-3).all()


def test_generation_with_a_cache_draws_from_the_logits_of_the_whole_sequence(transformer: Transformer) -> None:
    noise = Noise(0, torch.arange(200))
    uniform, labels = noise.uniform("codes", 4), noise.integers("label", 2)
    codes = transformer.generate(uniform, labels)
    assert torch.equal(draw(transformer(codes, labels), uniform), codes)
    parts = [transformer.generate(uniform[k : k + n], labels[k : k + n]) for k, n in ((0, 1), (1, 7), (8, 192))]
    assert torch.equal(torch.cat(parts), codes)


def test_generated_sequences_come_as_often_as_their_probability_says(transformer: Transformer) -> None:
    count, labels = 20_000, torch.ones(20_000, dtype=torch.int64)
    codes = transformer.generate(Noise(0, torch.arange(count)).uniform("codes", 4), labels)
    found = torch.bincount(codes @ torch.tensor([27, 9, 3, 1]), minlength=81) / count
    every = sequences()
    log_probability = transformer(every, torch.ones(81, dtype=torch.int64)).log_softmax(-1)
    exact = log_probability.gather(-1, every[..., None]).sum((1, 2)).exp()
    error = (exact * (1 - exact) / count).sqrt()
    assert ((found - exact).abs() < 4.5 * error + 1e-5).all()


def test_without_classes_labels_are_not_needed() -> None:
    net = Transformer(codes=3, length=4, classes=0, width=8, layers=1, heads=2)
    assert net(sequences()).shape == (81, 4, 3)
    assert net.generate(torch.rand(5, 4)).shape == (5, 4)
    with pytest.raises(ValueError, match="labels"):
        Transformer(codes=3, length=4, classes=2, width=8, layers=1, heads=2)(sequences())


def test_an_untrained_transformer_is_near_uniform() -> None:
    method = small("vq_transformer")
    scores = method.scores(method.build(SPEC).eval(), toy_batch(6))
    torch.testing.assert_close(scores["nats_per_code"], torch.full((6,), math.log(16)), rtol=0, atol=0.1)


def test_a_transformer_width_that_its_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="transformer_width"):
        methods.load("vq_transformer", transformer_width=30, heads=4)


@pytest.mark.parametrize("name", ["vqvae", "vqgan", "vq_transformer"])
def test_sampling_exports_for_any_batch_size(name: str) -> None:
    method, spec = small(name, grid=4, blocks=0), ImageSpec(channels=1, size=8, classes=10)
    nets = method.build(spec).eval()
    sampler = Sampler(Trained(method=method, nets=nets, spec=spec, seen=0, name=name, params={}))
    example, batch = (torch.arange(3), torch.zeros(3, dtype=torch.int64)), torch.export.Dim("batch")
    program = torch.export.export(sampler, example, dynamic_shapes=({0: batch}, {0: batch}))
    seeds, labels = torch.arange(7), torch.arange(7)
    torch.testing.assert_close(program.module()(seeds, labels), sampler(seeds, labels))


@pytest.mark.parametrize("name", ["vqvae", "vq_transformer"])
def test_the_reported_bound_lies_above_the_exact_bits(name: str) -> None:
    """With 3 codes at 2 x 2 places p(x) is a sum over 81 terms, of which the bound has one."""
    method = small(name, codes=3, grid=2)
    nets, batch = method.build(ImageSpec(channels=1, size=4, classes=10)).eval(), toy_batch(6, size=4)
    if name == "vqvae":
        nets["codebook"].usage.copy_(torch.tensor([0.2, 0.5, 0.3]))
    nn.init.normal_(nets["decoder"].layers[-1].weight, 0.0, 0.1)
    every = sequences()
    with torch.inference_mode():
        bound = method.scores(nets, batch)["elbo_bits_per_dim"] * 16 * math.log(2)
        joint = []
        for image, label in zip(batch.images, batch.labels, strict=True):
            location = method.location(nets, every.view(81, 2, 2))
            log_likelihood = nets["likelihood"](image.expand(81, 1, 4, 4), location, batch.noise)
            joint.append(_log_prior(name, nets, every, label) + log_likelihood)
        exact = -torch.stack(joint).logsumexp(1)
        best = -torch.stack(joint).amax(1)
    assert (bound > exact).all()
    assert (bound >= best - 1e-4).all() and (best - exact).max() > 1e-3


def _log_prior(name: str, nets: Nets, every: Tensor, label: Tensor) -> Tensor:
    if name == "vqvae":
        return torch.tensor([0.2, 0.5, 0.3]).log()[every].sum(1)
    logits = nets["transformer"](every, label.expand(81))
    return logits.log_softmax(-1).gather(-1, every[..., None]).sum((1, 2))


# ---- Do they learn?


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqvae", "vqgan"])
def test_the_transformer_makes_images_of_the_codes_and_independent_codes_do_not(name: str) -> None:
    """On the ring: a vqvae or vqgan, then a Transformer that starts from its nets."""
    own = {"width": 16, "codes": 32, "embedding": 8, "grid": 4, "lr": 2e-3, "schedule": "cosine"}
    critic = {"critic_width": 8, "critic_start": 20_000, "critic_lr": 5e-4} if name == "vqgan" else {}
    vqvae, nets = _learnt(methods.load(name, **own, **critic), 40_000)
    held = _held()
    again = vqvae.decode(nets, vqvae.encode(nets, held), held.labels)
    assert (held.images - again).square().mean() < 0.2 * held.images.var()
    assert 8 < nets["codebook"].in_use() <= 32
    assert judge(_sampled(vqvae, nets), _held().labels).quality < 0.3
    prior = methods.load("vq_transformer", layers=2, transformer_width=64, warm_up=2000, **own)
    trained, its = _learnt(prior, 30_000, nets.state_dict())
    found = judge(_sampled(trained, its), _held().labels)
    assert found.quality > 0.95 and found.modes == 8 and found.balance > 0.8 and found.agreement > 0.97
    bits = {key: value.mean() for key, value in trained.scores(its, _held()).items()}
    assert 0.1 < bits["nats_per_code"] < 0.4  # of log 32 = 3.47
    independent = vqvae.scores(nets, _held())["elbo_bits_per_dim"].mean()
    assert bits["elbo_bits_per_dim"] < independent - 0.15
    assert all(
        torch.equal(its[name].state_dict()[key], value)
        for name in trained.starts_from
        for key, value in nets[name].state_dict().items()
    )


def _learnt(method: Method, images: int, initial: dict[str, Tensor] | None = None) -> tuple[Method, Nets]:
    state = State.fresh(method, ImageSpec(channels=1, size=16, classes=8), 0, torch.device("cpu"), initial=initial)
    stream = batches(ring(2048), seed=0, batch_size=64, world=World())
    for _ in fit(method, state, stream, World(), seed=0, total=images, ema_half_life=2000.0):
        pass
    return method, state.averaged().eval().requires_grad_(False)


def _held() -> Batch:
    split, ids = ring(512, seed=9), torch.arange(512)
    images = to_unit_range(split.images(ids.numpy()), torch.device("cpu"))
    return Batch(images=images, labels=split.labels_of(ids.numpy()), noise=Noise(5, ids))


def _sampled(method: Method, nets: Nets) -> Tensor:
    with torch.inference_mode():
        return method.sample(nets, _held())
