"""Each warning, where it must come and where it must not: histories as real runs made them (docs/tracking.md)."""

from collections.abc import Mapping

import pytest

from pipeline import methods
from pipeline.watch import measures, warnings
from pipeline.watch.alarms import Alarm, all_alarms, new_alarms
from pipeline.watch.warning import Past, Point

GAN, VAE = methods.load("dcgan"), methods.load("vae")
PARAMS = {"lr": 2e-4, "critic_lr": None, "critic_steps": 1, "beta": 4.0}


def looks(every: int = 5_000, **series: list[float]) -> Past:
    count = len(next(iter(series.values())))
    return Past([Point((i + 1) * every, {name: values[i] for name, values in series.items()}) for i in range(count)])


def given(past: Past, vae: bool = False) -> list[tuple[str, int, int]]:
    alarms = all_alarms(past, VAE if vae else GAN, PARAMS)
    return [(alarm["kind"], alarm["since"], alarm["said"]) for alarm in alarms]


COLLAPSED = [3e-6, 0.02, 2e-5, 0.0]
HEALTHY = {
    "diversity": [0.32, 0.68, 1.0, 1.17, 1.22, 1.29],
    "frechet_pixels": [1.56, 0.51, 0.23, 0.19, 0.17, 0.135],
    "critic_auc": [1.0, 1.0, 1.0, 0.9995, 1.0, 1.0],
}


def test_a_collapse_is_said_once_with_its_beginning() -> None:
    assert given(looks(diversity=COLLAPSED)) == [("collapse", 5_000, 10_000)]
    assert given(looks(diversity=[0.9, 0.9, 0.01, 0.01, 0.01])) == [("collapse", 15_000, 20_000)]


def test_a_collapse_that_comes_again_is_said_again() -> None:
    series = [0.01, 0.01, 0.5, 0.01, 0.01]
    assert given(looks(diversity=series)) == [("collapse", 5_000, 10_000), ("collapse", 20_000, 25_000)]


@pytest.mark.parametrize(
    "past",
    [
        looks(**HEALTHY),
        looks(diversity=[0.01, 0.4, 0.01, 0.4]),
        looks(diversity=[0.0, 0.01, 0.02, 0.03, 0.13, 0.3], every=500),  # every generator begins so
        looks(critic_auc=[1.0] * 6, frechet_pixels=[0.14] * 6),  # a good one that gets no better
        looks(critic_auc=[0.98] * 6, frechet_pixels=[1.4] * 6),
        looks(critic_auc=[1.0] * 30, frechet_pixels=[1.5 - 0.04 * i for i in range(30)], every=1_000),
        Past([]),
    ],
)
def test_what_is_healthy_is_not_warned_of(past: Past) -> None:
    assert given(past) == []


def test_frequent_looks_do_not_make_a_warning_sooner() -> None:
    (alarm,) = given(looks(diversity=[0.0] * 40, every=250))
    assert alarm == ("collapse", 250, 4_250)


def test_a_critic_has_won_where_samples_are_far_and_stay_far() -> None:
    stuck = {"critic_auc": [1.0] * 8, "frechet_pixels": [2.3, 1.5, 1.49, 1.51, 1.5, 1.6, 1.45, 1.5]}
    (alarm,) = all_alarms(looks(**stuck), GAN, PARAMS)
    assert (alarm["kind"], alarm["said"]) == ("critic_won", 35_000)
    assert alarm["message"].startswith(
        "critic won since 5,000 images: the critic knows all samples, which were 1.5 from real images at best, and in "
        "25,000 images 1.45. Try a critic_lr below lr"
    )
    growing = {**stuck, "diversity": [0.1, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4]}
    assert given(looks(**growing)) == []


# dcgan on MNIST at 32 pixels, width 16, seeds 0 to 2, whose samples are good in the end (distance 0.10 to 0.13).
SEEN = [6016, 12032, 15040, 21056, 27008, 30016, 36032, 42048, 45056, 51008, 57024, 60032]
MNIST = [
    {
        "critic_auc": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9999, 1.0, 0.9932, 0.9662],
        "frechet_pixels": [3.496, 1.585, 1.583, 1.323, 1.219, 0.9844, 1.348, 0.8978, 0.7948, 0.4953, 0.4971, 0.3785],
        "diversity": [0.1434, 0.2138, 0.188, 0.1882, 0.2255, 0.2731, 0.5516, 0.5917, 0.6751, 0.6133, 0.8051, 0.8175],
    },
    {
        "critic_auc": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9967],
        "frechet_pixels": [3.288, 1.635, 1.46, 1.355, 1.329, 1.239, 1.145, 1.127, 1.373, 1.054, 1.021, 0.9895],
        "diversity": [0.1236, 0.1894, 0.1796, 0.1451, 0.1201, 0.1114, 0.1197, 0.1636, 0.2074, 0.3495, 0.332, 0.3394],
    },
    {
        "critic_auc": [1.0, 1.0, 0.9937, 0.9996, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9972, 1.0, 0.9981],
        "frechet_pixels": [3.101, 1.333, 1.104, 1.52, 1.529, 1.5, 1.559, 0.9851, 0.8936, 0.827, 0.5487, 0.4505],
        "diversity": [0.1776, 0.2219, 0.2125, 0.3641, 0.5216, 0.4974, 0.5557, 0.5851, 0.5963, 0.7234, 0.8487, 0.8471],
    },
]


@pytest.mark.parametrize("series", MNIST)
def test_a_good_training_that_wanders_for_long_is_not_warned_of(series: dict[str, list[float]]) -> None:
    points = [Point(seen, {name: series[name][i] for name in series}) for i, seen in enumerate(SEEN)]
    assert given(Past(points)) == []


def test_a_posterior_collapse() -> None:
    assert given(looks(active_units=[0.0, 0.0, 0.0]), vae=True) == [("posterior_collapse", 5_000, 10_000)]
    for healthy in ([0.03, 1.0, 1.0], [0.03, 0.81, 0.9], [0.3, 0.2, 0.1]):
        assert given(looks(active_units=healthy), vae=True) == []


def diverging(losses: Mapping[int, float]) -> Past:
    rows = [Point(seen, {"critic/loss": loss, "critic/gradient_norm": 1e9}) for seen, loss in losses.items()]
    return Past([Point(seen, {}) for seen in losses if seen % 5_000 == 0], rows)


def test_a_divergence_that_is_still_a_number() -> None:
    past = diverging({seen: 300.0 if seen < 11_000 else 40_000.0 for seen in range(1_000, 16_000, 1_000)})
    assert given(past) == [("divergence", 11_000, 15_000)]
    at_first = diverging({1_000: -2.0, 2_000: 3.0, 3_000: -900.0, 4_000: 1.0, 5_000: 1.0})
    assert given(at_first) == [("divergence", 3_000, 5_000)]
    (alarm,) = all_alarms(at_first, GAN, PARAMS)
    assert "critic/loss went to -900, where its size was 2" in alarm["message"] and "now 0.0002" in alarm["message"]


@pytest.mark.parametrize("factor", [-1.0, 1.0])
def test_a_loss_of_any_scale_may_wander(factor: float) -> None:
    past = diverging({seen: factor * (0.001 if seen < 9_000 else 20.0) for seen in range(1_000, 31_000, 1_000)})
    assert given(past) == []
    grows = diverging({seen: factor * seen / 100 for seen in range(1_000, 101_000, 1_000)})  # as unbounded critics do
    assert given(grows) == []


def test_the_last_look_gives_what_the_whole_history_says() -> None:
    past = looks(diversity=[0.01, 0.01, 0.5, 0.01, 0.01] + [0.4] * 4, critic_auc=[1.0] * 9, frechet_pixels=[2.0] * 9)
    live: list[Alarm] = []
    for count in range(1, 10):
        live += new_alarms(Past(past.looks[:count]), GAN, PARAMS)
    assert live == all_alarms(past, GAN, PARAMS) and len(live) == 3


def test_advice_speaks_of_params_that_the_run_has() -> None:
    (alarm,) = all_alarms(looks(diversity=COLLAPSED), methods.load("realnvp"), {"lr": 0.5})
    assert alarm["message"].endswith("Try a lower lr (now 0.5).")


def test_every_kind_needs_measures_that_there_are() -> None:
    for kind in warnings.names():
        assert warnings.load(kind).needs <= set(measures.names()), kind
    assert set(warnings.of(measures.of(VAE))) == {"collapse", "divergence", "posterior_collapse"}
    assert set(warnings.of(measures.of(GAN))) == {"collapse", "divergence", "critic_won"}
