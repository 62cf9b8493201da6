"""Nearest neighbours and balls: what float64 says of every pair, whatever the format, the block and the path."""

from itertools import pairwise

import pytest
import torch
from samplers import random_features
from torch import Tensor

from pipeline.evaluate import neighbours
from pipeline.evaluate.neighbours import PARTS, Overlap, Points, nearest, overlap, ranks


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared, from differences in float64."""
    return (x.double()[:, None] - y.double()).square().sum(2)


def collapsed(count: int) -> Tensor:
    """Points that a short format cannot tell apart, far from the origin, beside some that it can."""
    points = random_features(count, 24, 1)
    points[: count // 2] = points[0] + 1e-4 * torch.randn(count // 2, 24, generator=torch.Generator().manual_seed(0))
    return points + 10


def overlapping(x: Tensor, y: Tensor, x_radii: Tensor, y_radii: Tensor) -> Overlap:
    points = Points.of(x)
    return overlap(points, Points.of(y, points.centre), x_radii, y_radii)


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
    between = distances(x, x).fill_diagonal_(torch.inf)
    found, which = nearest(Points.of(x), 5)
    torch.testing.assert_close(found, between.sort(1).values[:, :5], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(between.gather(1, which), found, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", CASES)
def test_balls_hold_the_points_that_all_pairs_say(case: str) -> None:
    x = CASES[case]
    y = x[::2] + 0.3 * random_features(len(x[::2]), x.shape[1], 7).sub(7)
    x_radii, y_radii = (distances(z, z).sort(1).values[:, columns] for z, columns in ((x, [3, 5]), (y, [1, 4])))
    between = distances(x, y)
    by_x, by_y = between[..., None] <= x_radii[:, None], between[..., None] <= y_radii
    found = overlapping(x, y, x_radii, y_radii)
    assert torch.equal(found.held_by_a, by_x.sum(1)) and torch.equal(found.holding_b, by_x.sum(0))
    assert torch.equal(found.held_by_b, by_y.sum(0)) and torch.equal(found.holding_a, by_y.sum(1))
    bounds = [-(-part * len(y) // PARTS) for part in range(PARTS + 1)]
    by_part = [by_x[:, low:high].any(1) for low, high in pairwise(bounds)]
    assert torch.equal(found.reached, torch.stack(by_part, 1))
    assert 0 < by_x.float().mean() < 0.6 and 0 < by_y.float().mean() < 0.6


@pytest.mark.usefixtures("path")
def test_copies_are_at_distance_zero_and_a_rim_belongs_to_its_ball() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) / 3 + 0.1  # many distances are equal
    found = nearest(Points.of(grid), 4)[0]
    inner = (grid[:, 0] > 0.2) & (grid[:, 0] < 1.3) & (grid[:, 1] > 0.2) & (grid[:, 1] < 1.3)
    torch.testing.assert_close(found[inner], torch.full((9, 4), 1 / 9).double(), rtol=1e-6, atol=0)
    for radii in (torch.full((25, 1), 1 / 9 * (1 + 1e-6)).double(), distances(grid, grid).sort(1).values[:, 4:5]):
        both = overlapping(grid, grid, radii, radii)
        for held in (both.held_by_a, both.held_by_b):
            assert held[inner].tolist() == [[5]] * 9
    copies = grid.repeat(3, 1)
    torch.testing.assert_close(nearest(Points.of(copies), 2)[0], torch.zeros(75, 2).double(), rtol=0, atol=1e-14)
    both = overlapping(grid, copies, torch.zeros(25, 1).double(), torch.zeros(75, 1).double())
    assert both.held_by_a.tolist() == [[3]] * 25 and both.held_by_b.tolist() == [[1]] * 75
    assert bool(both.holding_a.all()) and bool(both.holding_b.all())


def test_as_few_points_as_there_may_be() -> None:
    found, which = nearest(Points.of(torch.tensor([[0.0], [3.0]])), 1)
    assert found.tolist() == [[9.0], [9.0]] and which.tolist() == [[1], [0]]


@pytest.mark.usefixtures("path")
def test_ranks_count_the_balls_that_end_before_a_point() -> None:
    x, y = random_features(200, 12, 0), random_features(90, 12, 5)
    points, radii = Points.of(x), distances(x, x).sort(1).values[:, 1:17]
    found = ranks(points, radii, Points.of(y, points.centre))
    assert torch.equal(found.long(), (radii[:, None] < distances(x, y)[..., None]).sum(2))
    assert found.unique().numel() > 3
