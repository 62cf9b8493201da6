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
    stuck = {"critic_auc": [1.0] * 5, "frechet_pixels": [2.3, 1.5, 1.49, 1.51, 1.5]}
    (alarm,) = all_alarms(looks(**stuck), GAN, PARAMS)
    assert (alarm["kind"], alarm["said"]) == ("critic_won", 20_000)
    assert alarm["message"].startswith(
        "critic won since 10,000 images: the critic knows all samples, which were 1.5 from real images and are 1.51. "
        "Try a critic_lr below lr"
    )


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
    past = looks(diversity=[0.01, 0.01, 0.5, 0.01, 0.01], critic_auc=[1.0] * 5, frechet_pixels=[2.0] * 5)
    live: list[Alarm] = []
    for count in range(1, 6):
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
