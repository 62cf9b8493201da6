"""Laws of the solvers: their orders, agreement with torchdiffeq's, what an exported program computes, divergences."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from pipeline.core.noise import Noise
from pipeline.families.ode import STEPS, FixedSolver, Solver, divergence, integrate

TURN = torch.tensor([[0.3, -2.0], [1.5, -0.4]], dtype=torch.float64)
START = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.1, 0.0]], dtype=torch.float64)
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def linear(x: Tensor, time: Tensor) -> Tensor:
    return x @ TURN.T.to(x.dtype)


def rising(x: Tensor, time: Tensor) -> Tensor:
    """Neither linear nor the same at all times."""
    return torch.sin(3 * x) * (1 + time) + torch.cos(5 * time)


def grid(steps: int) -> list[float]:
    return [k / steps for k in range(steps + 1)]


@pytest.mark.parametrize("solver", sorted(STEPS))
def test_a_solver_has_its_order(solver: FixedSolver) -> None:
    exact = START @ torch.linalg.matrix_exp(TURN).T
    errors = [float((integrate(linear, START, grid(n), solver, 1e-5) - exact).norm()) for n in (20, 40)]
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[solver]) < 0.2
    back = integrate(linear, exact, grid(40)[::-1], solver, 1e-5)
    assert (back - START).norm() < 4 * errors[1]


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun2"])
def test_fixed_steps_are_those_of_torchdiffeq(solver: str) -> None:
    times = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    theirs = odeint(lambda t, x: rising(x, t), START, times, method=solver)[-1]
    ours = integrate(rising, START, times.tolist(), solver.removesuffix("2"), 1e-5)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert (ours - integrate(rising, START, times.tolist(), "rk4", 1e-5)).abs().max() > 1e-4


def test_the_adaptive_solver_keeps_its_tolerance_for_the_worst_sample_of_a_batch() -> None:
    """Ninety-nine samples at rest do not hide the one that moves."""
    exact = START @ torch.linalg.matrix_exp(TURN).T
    crowd = torch.cat((torch.zeros(99, 2, dtype=torch.float64), START[:1]))
    for tolerance in (1e-3, 1e-5, 1e-7):
        alone = integrate(linear, START[:1], [0.0, 1.0], "dopri5", tolerance)
        among = integrate(linear, crowd, [0.0, 1.0], "dopri5", tolerance)[-1:]
        torch.testing.assert_close(alone, among, rtol=0, atol=tolerance)
        assert 0 < (among - exact[:1]).abs().max() < 10 * tolerance
    back = integrate(linear, exact, [1.0, 0.0], "dopri5", 1e-9)
    torch.testing.assert_close(back, START, rtol=0, atol=1e-7)


class Program(nn.Module):
    def __init__(self, solver: Solver, steps: int = 12) -> None:
        super().__init__()
        self.solver, self.steps = solver, steps

    def forward(self, x: Tensor) -> Tensor:
        return integrate(rising, x, grid(self.steps), self.solver, 1e-6)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_an_exported_program_has_the_same_numbers_in_any_batch(solver: Solver) -> None:
    part = Program(solver, steps=32)
    program = torch.export.export(part, (START.float(),), dynamic_shapes=[{0: torch.export.Dim.AUTO}]).module()
    more = torch.cat((START, START + 1)).float()
    # An adaptive solver cannot be exported: rk4's steps stand for its own, and come as near as the two agree.
    torch.testing.assert_close(program(more), part(more), rtol=0, atol=1e-4 if solver == "dopri5" else 1e-6)
    if solver == "dopri5":
        torch.testing.assert_close(program(more), Program("rk4", steps=32)(more), rtol=0, atol=1e-6)


def test_a_derivative_through_all_steps_is_that_of_the_whole() -> None:
    """One step's maps at a time are held, and computed again."""
    x = START.clone().requires_grad_()
    (saved,) = torch.autograd.grad(integrate(rising, x, grid(5), "heun", 1e-5).sum(), x)
    plain = x
    for begin, end in zip(torch.tensor(grid(5)[:-1]), torch.tensor(grid(5)[1:]), strict=True):
        plain = STEPS["heun"](rising, plain, begin, end)
    torch.testing.assert_close(saved, torch.autograd.grad(plain.sum(), x)[0], rtol=1e-6, atol=1e-6)


def test_the_divergence_of_a_linear_field() -> None:
    """Exact for a diagonal one and each probe, and on average for any: to five standard errors."""
    ids, time = torch.arange(4000), torch.tensor(0.5)
    x, probe = Noise(0, ids).normal("x", 2), (2 * Noise(0, ids).integers("probe", 2, 2) - 1).float()
    scale = torch.tensor([0.7, -1.9])
    value, spread = divergence(lambda x, t: x * scale, x, time, probe)
    torch.testing.assert_close(value, x * scale)
    torch.testing.assert_close(spread, torch.full((4000,), -1.2))
    value, spread = divergence(linear, x, time, probe)
    torch.testing.assert_close(value, linear(x, time))
    assert abs(float(spread.mean()) - float(TURN.trace())) < 5 * float(spread.std()) / math.sqrt(4000)
    assert spread.std() > 0.1


def test_an_exported_program_has_the_divergence_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    x, time = START.float(), torch.tensor(0.3)
    probe = torch.tensor([[1.0, -1.0]] * 3)
    value, spread = divergence(rising, x, time, probe)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    near, differences = divergence(rising, x, time, probe)
    torch.testing.assert_close(near, value, rtol=0, atol=1e-5)
    torch.testing.assert_close(differences, spread, rtol=0, atol=2e-3)
    assert not torch.equal(differences, spread)
