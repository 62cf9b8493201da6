"""Laws of the VAE family: bounds against an exact evidence, divergences, likelihoods, free bits, annealing, labels."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from toy_data import toy_batch
from toys import judge, ring

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec, to_uint8, to_unit_range
from pipeline.core.loop import descend, fit
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.families.vae import (
    LEVEL,
    bound_in_bits,
)

CPU = torch.device("cpu")
SPEC = ImageSpec(channels=1, size=16, classes=10)
CLOCK = Clock(seen=0, total=1000)
Z, D = 2, 4  # of the linear-Gaussian model: x = W z + b + sigma e, images of 2 x 2
SIGMA = 0.5


# ---- A model whose evidence and posterior are known: p(x) = N(b, W W^T + sigma^2 I)


class LinearDecoder(nn.Module):
    """The columns of W are orthogonal, so that the posterior's dimensions are independent."""

    def __init__(self) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(D, Z, generator=torch.Generator().manual_seed(0))).Q
        self.weight = nn.Parameter(basis * torch.tensor([1.5, 0.7]))
        self.bias = nn.Parameter(torch.tensor([0.1, -0.2, 0.3, 0.0]))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.location(latents).tanh()  # as a generator's images

    def location(self, latents: Tensor) -> Tensor:
        return (latents @ self.weight.T + self.bias).view(-1, 1, 2, 2)

    def evidence(self, images: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(D)
        return MultivariateNormal(self.bias, covariance).log_prob(images.flatten(1))

    def posterior(self, images: Tensor) -> Normal:
        precision = 1 + self.weight.square().sum(0) / SIGMA**2
        mean = (images.flatten(1) - self.bias) @ self.weight / SIGMA**2 / precision
        return Normal(mean, precision.rsqrt().expand_as(mean))


class LinearEncoder(nn.Module):
    """The true posterior, its means moved and its deviations scaled."""

    def __init__(self, decoder: LinearDecoder, move: float, scale: float) -> None:
        super().__init__()
        self.decoder, self.move, self.scale = [decoder], move, scale

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        q = self.approximate(images)
        return torch.cat((q.mean, 2 * q.stddev.log()), dim=1)

    def approximate(self, images: Tensor) -> Normal:
        true = self.decoder[0].posterior(images)
        return Normal(true.mean + self.move, true.stddev * self.scale)


class ExactGaussian(nn.Module):
    """A density, without levels: the linear-Gaussian model's own."""

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        return Normal(location, SIGMA).log_prob(images).sum((-3, -2, -1))


def linear_model(move: float, scale: float) -> tuple[Nets, LinearDecoder, LinearEncoder]:
    decoder = LinearDecoder()
    encoder = LinearEncoder(decoder, move, scale)
    nets = nn.ModuleDict({"encoder": encoder, "decoder": decoder, "likelihood": ExactGaussian()})
    return nets.requires_grad_(False), decoder, encoder


def four_pixels(count: int = 6) -> Batch:
    ids = torch.arange(count)
    noise = Noise(0, ids)
    return Batch(images=noise.normal("images", 1, 2, 2), labels=ids % 10, noise=noise)


def test_with_the_true_posterior_every_draw_weighs_the_evidence() -> None:
    nets, decoder, _ = linear_model(move=0.0, scale=1.0)
    batch = four_pixels()
    weights = methods.load("iwae", latent=Z).draws(nets, batch, 7).log_weights()
    torch.testing.assert_close(weights, decoder.evidence(batch.images)[:, None].expand(6, 7), rtol=0, atol=1e-5)


def test_the_elbo_lies_below_the_evidence_by_the_divergence_to_the_posterior() -> None:
    nets, decoder, encoder = linear_model(move=0.2, scale=1.4)
    batch = four_pixels()
    draws = methods.load("vae", latent=Z).draws(nets, batch, 20_000)
    samples = draws.log_likelihood - draws.kl().sum(1, keepdim=True)
    evidence = decoder.evidence(batch.images)
    gap = kl_divergence(encoder.approximate(batch.images), decoder.posterior(batch.images)).sum(1)
    error = 4 * samples.std(1) / samples.shape[1] ** 0.5
    assert ((samples.mean(1) - (evidence - gap)).abs() < error).all()
    assert (gap > 4 * error).all()  # so the bound is strict, beyond its error


def test_importance_weights_tighten_the_bound_from_the_elbo_to_the_evidence() -> None:
    nets, decoder, encoder = linear_model(move=0.4, scale=1.3)
    batch = four_pixels()
    iwae, module = methods.load("iwae", latent=Z), methods.find("iwae").__module__
    bound_of = __import__(module, fromlist=["_"]).importance_weighted_bound
    weights = iwae.draws(nets, batch, 40_000).log_weights()
    bounds = [bound_of(weights.view(-1, k)).view(6, -1).mean(1) for k in (1, 4, 16, 64, 40_000)]
    evidence = decoder.evidence(batch.images)
    gap = kl_divergence(encoder.approximate(batch.images), decoder.posterior(batch.images)).sum(1)
    torch.testing.assert_close(bounds[0], evidence - gap, rtol=0, atol=0.05)
    for looser, tighter in pairwise(bounds):
        assert (looser < tighter).all()
    assert (bounds[-2] < evidence).all()
    torch.testing.assert_close(bounds[-1], evidence, rtol=0, atol=0.05)


def test_the_loss_with_one_draw_is_the_elbo_of_that_draw() -> None:
    nets, decoder, encoder = linear_model(move=0.4, scale=1.3)
    batch = four_pixels()
    loss, logs = methods.load("iwae", latent=Z, draws_per_image=1).loss(nets, batch, CLOCK)
    q = encoder.approximate(batch.images)
    latents = q.mean + q.stddev * batch.noise.normal("posterior", 1, Z)[:, 0]
    joint = Normal(decoder.location(latents), SIGMA).log_prob(batch.images).sum((1, 2, 3)) + Normal(0.0, 1.0).log_prob(
        latents
    ).sum(1)
    expected = (joint - q.log_prob(latents).sum(1)).mean()
    torch.testing.assert_close(loss, -expected, rtol=1e-5, atol=0)
    bits = {name: value * D * math.log(2) for name, value in logs.items() if name.endswith("bits_per_dim")}
    torch.testing.assert_close(bits["iwae_bits_per_dim"], -expected, rtol=1e-5, atol=0)
    # The ELBO beside it has its divergence in closed form.
    reconstruction = Normal(decoder.location(latents), SIGMA).log_prob(batch.images).sum((1, 2, 3))
    closed = (reconstruction - kl_divergence(q, Normal(0.0, 1.0)).sum(1)).mean()
    torch.testing.assert_close(bits["elbo_bits_per_dim"], -closed, rtol=1e-5, atol=0)


def test_the_importance_weighted_gradient_is_the_weighted_gradient() -> None:
    nets, decoder, _ = linear_model(move=0.4, scale=1.3)
    decoder.requires_grad_(True)
    batch, iwae = four_pixels(), methods.load("iwae", latent=Z, draws_per_image=8)
    (ours,) = torch.autograd.grad(iwae.loss(nets, batch, CLOCK)[0], decoder.weight)
    weights = iwae.draws(nets, batch, 8).log_weights()
    normalized = weights.detach().softmax(1)
    (expected,) = torch.autograd.grad(-(normalized * weights).sum(1).mean(), decoder.weight)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_scores_report_both_bounds_per_image() -> None:
    nets, decoder, _ = linear_model(move=0.4, scale=1.3)
    batch = four_pixels()
    scores = methods.load("iwae", latent=Z, test_draws=5000).scores(nets, batch)
    evidence = -decoder.evidence(batch.images) / (D * math.log(2))
    assert scores.keys() == {"elbo_bits_per_dim", "iwae_bits_per_dim"}
    assert (scores["elbo_bits_per_dim"] > scores["iwae_bits_per_dim"] + 0.01).all()
    torch.testing.assert_close(scores["iwae_bits_per_dim"], evidence, rtol=0, atol=0.02)


class Uniform(nn.Module):
    """A uniform density over the 256 levels' bins, dequantized."""

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        density = torch.full_like(images, 1.0 / (256 * LEVEL))
        return (density.log() + math.log(LEVEL)).sum((-3, -2, -1))


@pytest.mark.parametrize("net", ["dcgan", "mlp", "resnet"])
@pytest.mark.parametrize("name", ["vae", "cvae"])
def test_the_posterior_begins_near_the_prior(name: str, net: str) -> None:
    method = methods.load(name, latent=6, width=8, net=net)
    kl = method.draws(method.build(SPEC), toy_batch(4), 1).kl().sum(1)
    assert kl.min() > 0 and kl.max() < 2


@pytest.mark.parametrize("name", ["vae", "iwae"])
def test_a_uniform_density_scores_exactly_eight_bits(name: str) -> None:
    method = methods.load(name, latent=6, width=8)
    nets = method.build(SPEC)
    nets["likelihood"] = Uniform()
    for parameter in nets["encoder"].head.parameters():
        nn.init.zeros_(parameter)  # the posterior is the prior
    for bits in method.scores(nets.eval(), toy_batch(4)).values():
        torch.testing.assert_close(bits, torch.full((4,), 8.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("likelihood", "score"),
    [
        ("bernoulli", "binarized_elbo_bits_per_dim"),
        ("gaussian", "elbo_bits_per_dim"),
        ("discretized_logistic", "elbo_bits_per_dim"),
    ],
)
def test_a_scores_name_says_of_what_it_is_a_bound(likelihood: str, score: str) -> None:
    method = methods.load("vae", latent=6, width=8, likelihood=likelihood)
    found = method.scores(method.build(SPEC).eval(), toy_batch(4))
    assert found.keys() == {score} and found[score].shape == (4,)
    assert found.keys() == bound_in_bits(likelihood, "elbo", torch.zeros(4), toy_batch(4).images).keys()


# ---- The loss


def stubbed(method: Method, mean: Tensor, log_variance: Tensor) -> Nets:
    """The method's nets with an encoder of one answer."""
    nets = method.build(SPEC)

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log_variance = nn.Parameter(mean), nn.Parameter(log_variance)

        def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.cat((self.mean, self.log_variance)).expand(len(images), -1)

    nets["encoder"] = Answer()
    return nets


def test_beta_rises_linearly_over_its_warm_up() -> None:
    method = methods.load("vae", beta=4.0, beta_warm_up=1000, latent=3, width=8, norm="none")
    weights = [method.weight(Clock(seen=seen, total=10_000)) for seen in (0, 250, 1000, 5000)]
    assert weights == [0.0, 1.0, 4.0, 4.0]
    assert methods.load("vae", beta=4.0).weight(CLOCK) == 4.0
    nets = stubbed(method, torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.1, -0.5, -2.0]))
    for seen in (0, 250, 1000):
        loss, logs = method.loss(nets, toy_batch(), Clock(seen=seen, total=10_000))
        expected = logs["reconstruction"] + method.weight(Clock(seen=seen, total=1)) * logs["kl"]
        torch.testing.assert_close(loss, expected)
    assert logs["kl"] > 1


def test_free_bits_cost_nothing_and_have_no_gradient() -> None:
    method = methods.load("vae", free_bits=0.5, latent=3, width=8, norm="none")
    nats = torch.tensor([0.1, 1.0, 0.5])  # with unit variance, half the squared mean
    nets = stubbed(method, (2 * nats).sqrt(), torch.zeros(3))
    loss, logs = method.loss(nets, toy_batch(), CLOCK)
    torch.testing.assert_close(logs["kl"], torch.tensor(1.6))
    torch.testing.assert_close(loss - logs["reconstruction"], torch.tensor(0.5 * math.log(2) + 1.5), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss - logs["reconstruction"], nets["encoder"].mean)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 2.0, 1.0]).sqrt(), rtol=1e-3, atol=1e-5)
    plain = methods.load("vae", latent=3, width=8, norm="none")
    loss, logs = plain.loss(nets, toy_batch(), CLOCK)
    torch.testing.assert_close(loss - logs["reconstruction"], torch.tensor(1.6), rtol=1e-4, atol=0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
@pytest.mark.parametrize("name", ["vae", "cvae", "iwae"])
def test_training_and_validation_agree_at_the_same_weights(name: str, likelihood: str) -> None:
    method = methods.load(name, latent=6, width=8, norm="none", likelihood=likelihood)
    if name == "iwae":
        method = methods.load(name, latent=6, width=8, norm="none", likelihood=likelihood, test_draws=5)
    nets, batch = method.build(SPEC), toy_batch()
    loss, logs = method.loss(nets.train(), batch, CLOCK)
    with torch.inference_mode():
        scores = method.scores(nets.eval(), batch)
    for score, values in scores.items():
        torch.testing.assert_close(logs[score].detach(), values.mean(), rtol=1e-5, atol=0)
    final = list(scores)[-1]
    torch.testing.assert_close(loss.detach(), scores[final].mean() * 256 * math.log(2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["vae", "cvae", "iwae"])
def test_a_batch_twice_has_the_loss_of_one(name: str) -> None:
    method = methods.load(name, latent=6, width=8, norm="none", free_bits=0.1) if name != "iwae" else None
    method = method or methods.load(name, latent=6, width=8, norm="none")
    nets, batch = method.build(SPEC), toy_batch()
    ids = torch.cat((batch.noise.ids, batch.noise.ids))
    twice = Batch(images=batch.images.repeat(2, 1, 1, 1), labels=batch.labels.repeat(2), noise=Noise(0, ids))
    losses = [method.loss(nets, b, CLOCK)[0] for b in (batch, twice)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


# ---- Choices


CHOICES = [
    {"likelihood": "bernoulli"},
    {"likelihood": "gaussian"},
    {"likelihood": "gaussian", "scale": 0.3},
    {"net": "mlp", "width": 32},
    {"net": "resnet", "upsampling": "nearest", "scale": 0.1},
    {"norm": "layer", "upsampling": "pixelshuffle"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_choice_trains_the_nets_that_can_learn(choice: dict[str, object]) -> None:
    method = methods.load("cvae", **({"latent": 6, "width": 8} | choice))
    state = State.fresh(method, SPEC, 0, CPU)
    (phase,) = state.phases
    learns = "scale" not in choice and choice.get("likelihood") != "bernoulli"
    assert ("likelihood" in phase.trains) == learns
    before = {name: value.clone() for name, value in state.nets.state_dict().items()}
    batch = toy_batch()
    logs = descend(phase, state.nets, state.optimizers[phase.name], batch, CLOCK, World())
    state.update_average(8, half_life=0.0)
    assert all(value.isfinite() for value in logs.values())
    moved = {
        name.split(".")[0] for name, value in state.nets.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == set(phase.trains)
    with torch.inference_mode():
        images = method.sample(state.nets.eval(), batch)
    assert images.shape == (8, 1, 16, 16) and images.abs().max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": "poisson"},
        {"net": "unet"},
        {"beta": -1.0},
        {"free_bits": -0.1},
        {"scale": 0.0},
        {"likelihood": "bernoulli", "scale": 0.1},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=list(settings)[-1]):
        methods.load("vae", **settings)


# ---- Labels


def test_each_part_of_the_cvae_uses_the_label() -> None:
    method = methods.load("cvae", latent=6, width=8, norm="none")
    nets, batch = method.build(SPEC).eval(), toy_batch(4)
    nn.init.normal_(nets["prior"].weight)
    nn.init.normal_(nets["encoder"].head.linear.weight)
    other = Batch(images=batch.images, labels=batch.labels + 1, noise=batch.noise)
    with torch.inference_mode():
        one, two = (method.posterior(nets, b).mean for b in (batch, other))
        assert ((one - two).abs().amax(1) > 1e-6).all()
        one, two = (method.prior(nets, b.labels).mean for b in (batch, other))
        assert ((one - two).abs().amax(1) > 1e-2).all()
        latents = batch.noise.normal("z", 6)
        one, two = (nets["decoder"](latents, b.labels) for b in (batch, other))
        assert ((one - two).abs().amax((1, 2, 3)) > 1e-6).all()


def test_the_cvae_draws_from_its_classs_prior_and_pays_the_divergence_to_it() -> None:
    method = methods.load("cvae", latent=6, width=8, norm="none")
    nets, batch = method.build(SPEC).eval(), toy_batch(12)
    with torch.inference_mode():
        zero = method.prior(nets, batch.labels)
        assert zero.mean.abs().max() == 0 and zero.log_variance.abs().max() == 0
        nn.init.normal_(nets["prior"].weight[:, :6], 0.0, 3.0)
        nn.init.constant_(nets["prior"].weight[:, 6:], -100.0)
        images = method.sample(nets, batch)  # no variance: one image per class
        torch.testing.assert_close(images[:2], images[10:12], rtol=0, atol=1e-6)
        assert (images[0] - images[1]).abs().max() > 1e-4
        nn.init.constant_(nets["prior"].weight[:, 6:], 0.5)
        draws = method.draws(nets, batch, 1)
        exact = kl_divergence(
            *(Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (draws.posterior, method.prior(nets, batch.labels)))
        )
    torch.testing.assert_close(draws.kl(), exact, rtol=1e-4, atol=1e-5)
    assert draws.kl().sum() > 10


# ---- Do they learn?


def factor_images(count: int, seed: int) -> Split:
    """4 x 4 bytes of x = W z + 0.1 e with two factors, whose entropy is known."""
    noise = Noise(seed, torch.arange(count))
    images = noise.normal("factors", 2) @ FACTORS.T + 0.1 * noise.normal("noise", 16)
    array = to_uint8(images.view(-1, 4, 4, 1)).numpy()
    return Split(ArrayStore((array,)), np.zeros(count, dtype=np.int64))


FACTORS = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(0))).Q * torch.tensor([1.0, 0.6])
COVARIANCE = FACTORS @ FACTORS.T + 0.01 * torch.eye(16)
ENTROPY = float(MultivariateNormal(torch.zeros(16), COVARIANCE).entropy() / (16 * math.log(2)) - math.log2(LEVEL))


def learnt(name: str, split: Split, spec: ImageSpec, images: int, **settings: object) -> tuple[Method, Nets]:
    method = methods.load(name, schedule="cosine", **settings)
    state = State.fresh(method, spec, 0, CPU)
    stream = batches(split, seed=0, batch_size=64, world=World())
    for _ in fit(method, state, stream, World(), seed=0, total=images, ema_half_life=2000.0):
        pass
    return method, state.averaged().eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "iwae"])
def test_factor_images_are_learnt_to_their_entropy(name: str) -> None:
    settings = {"net": "mlp", "norm": "none", "width": 64, "latent": 3, "lr": 2e-3, "likelihood": "gaussian"}
    method, nets = learnt(name, factor_images(20_000, seed=0), ImageSpec(channels=1, size=4), 150_000, **settings)
    held, ids = factor_images(4000, seed=1), torch.arange(4000)
    batch = Batch(
        images=to_unit_range(held.images(ids.numpy()), CPU), labels=torch.zeros_like(ids), noise=Noise(2, ids)
    )
    with torch.inference_mode():
        bits = {key: float(value.mean()) for key, value in method.scores(nets, batch).items()}
    assert all(ENTROPY - 0.02 < value < ENTROPY + 0.1 for value in bits.values()), (bits, ENTROPY)
    torch.testing.assert_close(nets["likelihood"].log_scale.exp(), torch.full((1, 1, 1), 0.1), rtol=0.1, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "cvae", "iwae"])
def test_the_ring_is_covered(name: str) -> None:
    """A continuous latent space leaves images between the modes; with the label known there are few of them."""
    settings = {"width": 16, "latent": 2, "lr": 2e-3}
    method, nets = learnt(name, ring(2048), ImageSpec(channels=1, size=16, classes=8), 40_000, **settings)
    ids = torch.arange(512)
    like = Batch(images=torch.zeros(512, 1, 16, 16), labels=ids % 8, noise=Noise(5, ids))
    with torch.inference_mode():
        found = judge(method.sample(nets, like), like.labels)
    assert found.modes == 8 and found.balance > 0.2
    assert found.quality > (0.6 if name == "cvae" else 0.25)
    assert found.agreement > 0.85 if name == "cvae" else 0.05 < found.agreement < 0.25


@pytest.mark.slow
def test_a_hierarchy_needs_fewer_bits_for_images_that_it_has_not_seen_than_one_level() -> None:
    held, ids = ring(512, seed=9), torch.arange(512)
    images = to_unit_range(held.images(ids.numpy()), CPU)
    batch, bits = Batch(images=images, labels=held.labels_of(ids.numpy()), noise=Noise(5, ids)), {}
    for name, latent in (("vae", 32), ("ladder_vae", 2)):
        settings = {"width": 16, "latent": latent, "lr": 2e-3}
        method, nets = learnt(name, ring(2048), ImageSpec(channels=1, size=16, classes=8), 40_000, **settings)
        with torch.inference_mode():
            bits[name] = float(method.scores(nets, batch)["elbo_bits_per_dim"].mean())
    assert 0.05 < bits["vae"] - bits["ladder_vae"] < 1.0, bits
