"""What each measure says where the answer is known, and that a look changes nothing."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Nets
from pipeline.watch import measures
from pipeline.watch.look import IMAGES, POOLED, evaluating, look_at, pooled, watch
from pipeline.watch.measure import Look
from pipeline.watch.measures.critic_auc import probability_above
from pipeline.watch.measures.diversity import nearest_distance

SMALL = {"width": 4, "latent": 4}


def points(count: int, dimensions: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(name: str, look: Look) -> float:
    return measures.load(name).compute(look)


def test_the_nearest_distance_is_that_of_a_double_loop() -> None:
    x = points(9)
    nearest = [min(float((a - b).norm()) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]
    assert nearest_distance(x) == pytest.approx(sorted(nearest)[4], rel=1e-12)
    assert math.isnan(nearest_distance(x[:1]))


def test_diversity_is_one_for_the_same_distribution_and_none_for_a_few_modes() -> None:
    real = points(200)
    assert value("diversity", Look(samples=real, real=real)) == 1.0
    assert value("diversity", Look(samples=3 * real, real=real)) == pytest.approx(3.0, rel=1e-12)
    same = value("diversity", Look(samples=points(200, seed=1), real=real))
    assert 0.85 < same < 1.15
    modes = real[torch.arange(200) % 5]  # five of them: the variance over all samples says little
    assert value("diversity", Look(samples=modes, real=real)) == 0.0
    assert float(modes.var(0).sum()) > 0.3 * float(real.var(0).sum())


@pytest.mark.parametrize(("samples", "real"), [(1, 9), (0, 9), (9, 1)])
def test_what_cannot_be_said_is_no_number(samples: int, real: int) -> None:
    for name in ("diversity", "frechet_pixels"):
        assert math.isnan(value(name, Look(samples=points(samples), real=points(real)))), name


def test_frechet_pixels_in_closed_form() -> None:
    """One variance away where all samples are the mean real image; a shift adds its square."""
    real = points(50)
    variance = float(real.var(0).sum())
    assert value("frechet_pixels", Look(samples=real, real=real)) == pytest.approx(0.0, abs=1e-9)
    constant = real.mean(0, keepdim=True).expand(50, -1)
    assert value("frechet_pixels", Look(samples=constant, real=real)) == pytest.approx(1.0, rel=1e-9)
    shifted = value("frechet_pixels", Look(samples=real + 2.0, real=real))
    assert shifted == pytest.approx(6 * 2.0**2 / variance, rel=1e-9)


def test_the_critics_ranking() -> None:
    real, samples = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])
    assert probability_above(real, samples) == pytest.approx((2.5 + 3) / 6)
    assert probability_above(samples, real) == pytest.approx(1 - (2.5 + 3) / 6)
    assert probability_above(samples, samples) == 0.5


def test_active_units_by_the_papers_variance() -> None:
    mean = torch.zeros(4, 5, dtype=torch.float64)
    mean[:, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0])  # variance 1/3
    mean[:, 1] = torch.tensor([0.0, 0.1, 0.0, 0.1])  # 1/300
    mean[:, 2] = 7.0
    look = Look(samples=points(4), real=points(4), posterior_mean=mean)
    assert value("active_units", look) == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("dcgan", {"diversity", "frechet_pixels", "critic_auc"}),
        ("vae", {"diversity", "frechet_pixels", "active_units"}),
        ("realnvp", {"diversity", "frechet_pixels"}),
    ],
)
def test_a_method_is_watched_by_what_it_has(method: str, known: set[str]) -> None:
    assert set(measures.of(methods.load(method))) == known


@pytest.mark.parametrize("name", methods.names())
def test_a_critic_scores_each_image(name: str) -> None:
    method = methods.load(name)
    if not method.criticizes:
        with pytest.raises(NotImplementedError, match="has no critic"):
            method.criticize(nn.ModuleDict(), torch.empty(1), torch.empty(1))
        return
    torch.manual_seed(0)
    nets = method.build(ImageSpec(channels=1, size=16, classes=10))
    batch = toy_batch(3)
    with evaluating(nets), torch.no_grad():
        scores = method.criticize(nets, batch.images, batch.labels)
        alone = method.criticize(nets, batch.images[1:2], batch.labels[1:2])
    assert scores.shape == (3,)
    torch.testing.assert_close(scores[1:2], alone, rtol=1e-4, atol=1e-5)


def build(name: str) -> tuple[methods.Method, Nets]:
    torch.manual_seed(0)
    method = methods.load(name, **SMALL)
    return method, method.build(ImageSpec(channels=1, size=16, classes=10)).train()


@pytest.mark.parametrize("name", ["dcgan", "sngan", "vae"])
def test_a_look_changes_nothing(name: str) -> None:
    method, nets = build(name)
    next(iter(nets.values())).eval()  # a frozen net
    modes = [module.training for module in nets.modules()]
    before, random = copy.deepcopy(nets.state_dict()), torch.get_rng_state()
    first = watch(method, nets, [toy_batch(8)])
    assert first == watch(method, nets, [toy_batch(8)]) and len(first) == 3
    assert [module.training for module in nets.modules()] == modes
    assert torch.equal(random, torch.get_rng_state())
    after = nets.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_look_does_not_depend_on_its_batches() -> None:
    method, nets = build("dcgan")
    whole = watch(method, nets, [toy_batch(8)])
    parts = watch(method, nets, [toy_batch(3), toy_batch(5, first=3)])
    assert whole == pytest.approx(parts, rel=1e-4)


def test_samples_that_are_not_finite_are_left_out() -> None:
    method, nets = build("dcgan")
    with torch.no_grad():
        for parameter in nets["generator"].parameters():
            parameter.fill_(math.nan)
    assert set(watch(method, nets, [toy_batch(8)])) == set()
    look = look_at(method, nets, [toy_batch(8)])
    assert look.samples.shape == (0, POOLED * POOLED) and look.real.shape == (8, POOLED * POOLED)


def test_pooling_averages_areas() -> None:
    images = torch.arange(256.0).view(1, 1, 16, 16)
    assert pooled(images)[0, 0] == images[0, 0, :2, :2].mean()
    assert pooled(torch.rand(2, 3, 28, 28)).shape == (2, 3 * POOLED**2)
    assert IMAGES >= 4 * POOLED**2 // 2, "covariances of gray images have full rank"
