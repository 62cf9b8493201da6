"""Nearest neighbours and balls: what float64 says of every pair, whatever the format, the block and the path."""

import pytest
import torch
from samplers import random_features
from torch import Tensor

from pipeline.evaluate import neighbours
from pipeline.evaluate.neighbours import inside, nearest


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared, from differences in float64."""
    return (x.double()[:, None] - y.double()).square().sum(2)


def collapsed(count: int) -> Tensor:
    """Points that a short format cannot tell apart, far from the origin, beside some that it can."""
    points = random_features(count, 24, 1)
    points[: count // 2] = points[0] + 1e-4 * torch.randn(count // 2, 24, generator=torch.Generator().manual_seed(0))
    return points + 10


CASES = {"wide": random_features(300, 24, 0), "high": random_features(60, 500, 2), "collapsed": collapsed(300)}


@pytest.fixture(params=["bfloat16", "float32", "whole", "small blocks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    short = torch.float32 if request.param == "float32" else torch.bfloat16
    monkeypatch.setattr(neighbours, "_short_format", lambda: short)
    if request.param == "whole":
        monkeypatch.setattr(neighbours, "_few", lambda products: -1)
    if request.param == "small blocks":
        monkeypatch.setattr(neighbours, "_ELEMENTS", 1000)
        monkeypatch.setattr(neighbours, "_PAIRS", 3)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", CASES)
def test_nearest_distances_are_those_of_all_pairs(case: str) -> None:
    x = CASES[case]
    expected = distances(x, x).fill_diagonal_(torch.inf).sort(1).values[:, :5]
    torch.testing.assert_close(nearest(x, 5), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", CASES)
def test_balls_hold_the_points_that_all_pairs_say(case: str) -> None:
    x = CASES[case]
    y = x[::2] + 0.3 * random_features(len(x[::2]), x.shape[1], 7).sub(7)
    radii = distances(x, x).sort(1).values[:, 5]
    expected = distances(x, y) <= radii[:, None]
    assert torch.equal(torch.cat(list(inside(x, radii, y))), expected)
    assert 0 < expected.float().mean() < 0.6


@pytest.mark.usefixtures("path")
def test_copies_are_at_distance_zero_and_a_rim_belongs_to_its_ball() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) / 3 + 0.1  # many distances are equal
    found = nearest(grid, 4)
    inner = (grid[:, 0] > 0.2) & (grid[:, 0] < 1.3) & (grid[:, 1] > 0.2) & (grid[:, 1] < 1.3)
    torch.testing.assert_close(found[inner], torch.full((9, 4), 1 / 9).double(), rtol=1e-6, atol=0)
    held = torch.cat(list(inside(grid, torch.full((25,), 1 / 9 * (1 + 1e-6)).double(), grid)))
    assert held.sum(1)[inner].tolist() == [5] * 9
    radii = distances(grid, grid).sort(1).values[:, 4]
    assert torch.equal(torch.cat(list(inside(grid, radii, grid))).sum(1)[inner], torch.full((9,), 5))
    copies = grid.repeat(3, 1)
    torch.testing.assert_close(nearest(copies, 2), torch.zeros(75, 2).double(), rtol=0, atol=1e-14)
    held = torch.cat(list(inside(grid, torch.zeros(25).double(), copies)))
    assert torch.equal(held, torch.eye(25, dtype=torch.bool).repeat(1, 3))


def test_as_few_points_as_there_may_be() -> None:
    assert nearest(torch.tensor([[0.0], [3.0]]), 1).tolist() == [[9.0], [9.0]]
