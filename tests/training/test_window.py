"""A log window's row is the mean of its iterations; of the finite ones, where others are left out of training."""

import math

import pytest
import torch

from pipeline.core.world import World
from pipeline.training.job import DivergedError
from pipeline.training.window import SKIPPED, Window, crosses


def filled(losses: list[float], *, skips: bool) -> Window:
    window = Window(0, skips=skips)
    for loss in losses:
        window.add({"loss": torch.tensor(loss), "norm": torch.tensor(1.0)})
    return window


@pytest.mark.parametrize("skips", [False, True])
def test_a_row_has_the_means(skips: bool) -> None:
    values = filled([1.0, 2.0, 6.0], skips=skips).close(48, World())["values"]
    assert (values["loss"], values["norm"]) == (3.0, 1.0) and values["images_per_second"] > 0
    assert values.get(SKIPPED) == (0.0 if skips else None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ends_the_training_or_is_left_out(bad: float) -> None:
    with pytest.raises(DivergedError, match="loss was not finite between 0 and 64 images"):
        filled([1.0, bad, 2.0, 3.0], skips=False).close(64, World())
    values = filled([1.0, bad, 2.0, 3.0], skips=True).close(64, World())["values"]
    assert values["loss"] == 2.0 and values["norm"] == 1.0 and values[SKIPPED] == 0.25


def test_a_window_without_a_finite_step_ends_the_training() -> None:
    with pytest.raises(DivergedError, match="loss was not finite in any step"):
        filled([math.nan, math.inf], skips=True).close(32, World())


def test_cadences() -> None:
    assert [crosses(0, now, 100) for now in (64, 99, 100, 128)] == [False, False, True, True]
    assert not crosses(128, 192, 100) and crosses(128, 201, 100)
