"""Laws of the ladder: the merge of two normals, KL terms in closed form, a hierarchy whose evidence is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.families.vae import Gaussian
from pipeline.nets.ladder import BOUND, Choose, bounded

SPEC = ImageSpec(channels=1, size=16, classes=10)
CLOCK = Clock(seen=0, total=1000)
SMALL = {"width": 8, "latent": 2, "levels": 2, "norm": "none"}
DIMENSIONS = 2 * 4 * 4 + 2 * 8 * 8  # of the latents of 16 pixels


def small(**settings: object) -> tuple[Method, Nets]:
    """With weights so large that every level matters."""
    torch.manual_seed(0)
    method = methods.load("ladder_vae", **(SMALL | settings))
    nets = method.build(SPEC)
    with torch.no_grad():
        for name, parameter in nets.named_parameters():
            if "statistics" in name or "priors" in name or "take" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method, nets


# ---- The merge


def test_the_merge_has_the_precisions_sum_and_the_means_weighted_by_them() -> None:
    torch.manual_seed(0)
    one, other = (Gaussian(torch.randn(5, 3).double(), torch.randn(5, 3).double()) for _ in range(2))
    merged = one.times(other)
    precisions = [(-normal.log_variance).exp() for normal in (one, other)]
    total = precisions[0] + precisions[1]
    torch.testing.assert_close(merged.log_variance, -total.log())
    torch.testing.assert_close(merged.mean, (one.mean * precisions[0] + other.mean * precisions[1]) / total)
    values = torch.randn(7, 5, 3).double()  # the product of the densities, but for a factor
    factor = one.log_density(values) + other.log_density(values) - merged.log_density(values)
    torch.testing.assert_close(factor, factor[:1].expand(7, 5))


def test_a_merge_with_one_that_knows_nothing_or_everything() -> None:
    own = Gaussian(torch.tensor([1.5]), torch.tensor([-0.5]))
    for log_variance, expected in ((60.0, 1.5), (-60.0, -4.0)):
        merged = own.times(Gaussian(torch.tensor([-4.0]), torch.tensor([log_variance])))
        torch.testing.assert_close(merged.mean, torch.tensor([expected]))
        torch.testing.assert_close(merged.log_variance, torch.tensor([min(-0.5, log_variance)]))


# ---- The divergences


def test_the_kl_of_each_level_is_that_of_its_normals_and_they_add_up() -> None:
    method, nets = small()
    batch = toy_batch()
    found = method.inferred(nets, batch, batch.noise.normal("posterior", DIMENSIONS))  # type: ignore[attr-defined]
    priors: list[Gaussian] = []
    normal = batch.noise.normal("posterior", DIMENSIONS).split([2 * 16, 2 * 64], dim=1)
    latents = [q.draw(e.view(q.mean.shape)) for q, e in zip(found.posteriors, normal, strict=True)]

    def remember(level: int, mean: Tensor, log_variance: Tensor) -> Tensor:
        priors.append(Gaussian(mean, log_variance))
        return latents[level]

    torch.testing.assert_close(nets["decoder"](remember), found.location)
    assert (priors[0].mean == 0).all() and (priors[0].log_variance == 0).all()
    parts = []
    for level, (posterior, prior) in enumerate(zip(found.posteriors, priors, strict=True)):
        q, p = (Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (posterior, prior))
        closed = kl_divergence(q, p)
        torch.testing.assert_close(found.kl[level], closed, rtol=1e-3, atol=1e-5)
        parts.append(closed.flatten(1).sum(1).mean())
    _, logs = method.phases()[0].loss(nets, batch, CLOCK)
    torch.testing.assert_close(logs["kl_2"], parts[0], rtol=1e-4, atol=0)  # the top level is the last in the paper
    torch.testing.assert_close(logs["kl_1"], parts[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(logs["kl"], parts[0] + parts[1], rtol=1e-4, atol=0)
    assert torch.stack(parts).detach().min() > 0.1


def test_the_posterior_below_the_top_is_the_merge_and_at_the_top_the_images_own() -> None:
    method, nets = small()
    batch = toy_batch()
    found = method.inferred(nets, batch, torch.zeros(8, DIMENSIONS))  # type: ignore[attr-defined]
    upward, priors = nets["encoder"](batch.images), []

    def remember(level: int, mean: Tensor, log_variance: Tensor) -> Tensor:
        priors.append(Gaussian(mean, log_variance))
        return found.posteriors[level].mean

    nets["decoder"](remember)
    top, below = (Gaussian(*statistics.chunk(2, dim=1)) for statistics in upward)
    torch.testing.assert_close(found.posteriors[0].mean, top.mean)
    torch.testing.assert_close(found.posteriors[1].mean, below.times(priors[1]).mean)
    torch.testing.assert_close(found.posteriors[1].log_variance, below.times(priors[1]).log_variance)
    assert (found.posteriors[1].log_variance < priors[1].log_variance).all()


def test_the_kl_is_paid_for_as_much_as_the_warm_up_says() -> None:
    method, nets = small(beta=2.0, beta_warm_up=100)
    for seen, weight in ((0, 0.0), (25, 0.5), (100, 2.0), (900, 2.0)):
        loss, logs = method.phases()[0].loss(nets, toy_batch(), Clock(seen=seen, total=1000))
        torch.testing.assert_close(loss, logs["reconstruction"] + weight * logs["kl"])
    free, _ = replace(method, beta=1.0, beta_warm_up=0, free_bits=50.0).phases()[0].loss(nets, toy_batch(), CLOCK)
    torch.testing.assert_close(free, logs["reconstruction"] + DIMENSIONS * 50.0 * math.log(2))


def test_it_trains_and_validates_alike() -> None:
    method, nets = small()
    batch = toy_batch()
    _, logs = method.phases()[0].loss(nets.train(), batch, CLOCK)
    score = method.scores(nets.eval(), batch)["elbo_bits_per_dim"]
    assert score.shape == (8,)
    torch.testing.assert_close(score.mean(), logs["elbo_bits_per_dim"])
    torch.testing.assert_close(score.mean() * 256 * math.log(2), logs["reconstruction"] + logs["kl"])


# ---- A hierarchy whose evidence is known: z2 ~ N(0, 1), z1 ~ N(A z2, B^2), x ~ N(C z1, D^2), of one pixel

A, B, C, D = 0.8, 0.6, 1.3, 0.5
PIXEL = 0.9
EVIDENCE = Normal(0.0, math.sqrt(C * C * (A * A + B * B) + D * D)).log_prob(torch.tensor(PIXEL))


class LinearDown(nn.Module):
    latents = ((1, 1, 1), (1, 1, 1))

    def forward(self, choose: Choose) -> Tensor:
        zero = torch.zeros(1, 1, 1, 1)
        top = choose(0, zero, zero)
        return C * choose(1, A * top, torch.full_like(top, 2 * math.log(B)))


class LinearUp(nn.Module):
    """The exact posterior of z2, moved; and what the pixel alone says of z1."""

    def __init__(self, move: float) -> None:
        super().__init__()
        self.move = move

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1.0 + (A * C) ** 2 / ((B * C) ** 2 + D**2)
        mean = A * C / ((B * C) ** 2 + D**2) / precision * images + self.move
        own = torch.full_like(images, -math.log(precision))
        return torch.cat((mean, own), dim=1), torch.cat((images / C, torch.full_like(images, 2 * math.log(D / C))), 1)


class Density(nn.Module):
    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        return Normal(location, D).log_prob(images).sum((1, 2, 3))


@pytest.mark.parametrize("move", [0.0, 0.7])
def test_the_bound_is_the_evidence_less_the_divergence_of_the_posterior(move: float) -> None:
    """With the exact posterior of z2 the merge of z1's prior with what x says is exact too: the bound is tight."""
    count = 40_000
    ids = torch.arange(count)
    batch = Batch(images=torch.full((count, 1, 1, 1), PIXEL), labels=ids * 0, noise=Noise(0, ids))
    nets = nn.ModuleDict({"encoder": LinearUp(move), "decoder": LinearDown(), "likelihood": Density()})
    bits = methods.load("ladder_vae", scale=1.0).scores(nets, batch)["elbo_bits_per_dim"]
    elbo = -bits * math.log(2)
    precision = 1.0 + (A * C) ** 2 / ((B * C) ** 2 + D**2)
    gap = 0.5 * precision * move**2  # KL between normals of one variance; q(z1 | z2, x) is exact
    error = 4 * float(elbo.std()) / count**0.5
    assert abs(float(elbo.mean() - (EVIDENCE - gap))) < error < 0.03
    assert move == 0.0 or gap > 4 * error


# ---- The paths


def test_each_level_changes_the_image_and_the_levels_below_it() -> None:
    method, nets = small()
    nets.eval()
    like = toy_batch(5)
    normal = like.noise.normal("latent", DIMENSIONS)

    def prior_below(top: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def choose(level: int, mean: Tensor, log_variance: Tensor) -> Tensor:
            seen.append(mean)
            return top if level == 0 else torch.zeros(5, 2, 8, 8)

        nets["decoder"](choose)
        return seen[1]

    with torch.no_grad():
        top = normal[:, :32].view(5, 2, 4, 4)
        assert (prior_below(top) - prior_below(torch.zeros_like(top))).abs().max() > 1e-3
        image = method.decode(nets, {"mean": normal}, like.labels)
        for part in (slice(0, 32), slice(32, None)):
            changed = normal.clone()
            changed[:, part] += 1.0
            assert (method.decode(nets, {"mean": changed}, like.labels) - image).abs().amax((1, 2, 3)).min() > 1e-3


def test_an_image_is_decoded_from_its_means_as_the_posterior_without_noise_does() -> None:
    method, nets = small()
    nets.eval()
    batch = toy_batch(5)
    encoded = method.encode(nets, batch)
    assert set(encoded) == {"mean", "log_variance"} and encoded["mean"].shape == (5, DIMENSIONS)
    found = method.inferred(nets, batch, torch.zeros(5, DIMENSIONS))  # type: ignore[attr-defined]
    torch.testing.assert_close(method.decode(nets, encoded, batch.labels), found.location.clamp(-1, 1))
    torch.testing.assert_close(encoded["log_variance"][:, :32], found.posteriors[0].log_variance.flatten(1))


def test_log_variances_are_bounded_on_both_sides() -> None:
    statistics = torch.tensor([3.0, 3.0, 3.0, -1e6, 0.1, 1e6]).view(1, 6, 1, 1)
    found = bounded(statistics).flatten()
    assert found[:3].tolist() == [3.0, 3.0, 3.0] and found[3] == -BOUND and found[5] == BOUND
    torch.testing.assert_close(found[4], torch.tensor(0.1), rtol=1e-3, atol=0)


def test_more_levels_than_an_image_can_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="levels: images of 16 pixels have 2 at most"):
        methods.load("ladder_vae", levels=3).build(SPEC)
    assert len(methods.load("ladder_vae").build(SPEC)["decoder"].latents) == 2
    wide = ImageSpec(channels=1, size=128)
    assert len(methods.load("ladder_vae").build(wide)["decoder"].latents) == 3
