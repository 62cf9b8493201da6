"""Ordinary differential equations dx/dt = f(x, t) of batches: solvers of fixed steps by name, and an adaptive one.

A fixed step from t to t + h, with k1 = f(x, t):

    euler      x + h k1                                                      1 evaluation, order 1
    midpoint   x + h f(x + h/2 k1, t + h/2)                                  2 evaluations, order 2
    heun       x + h/2 (k1 + f(x + h k1, t + h))                             2 evaluations, order 2
    rk4        the classical one of Runge and Kutta                          4 evaluations, order 4

The adaptive one is torchdiffeq's dopri5 (Dormand, Prince, "A family of embedded Runge-Kutta formulae", 1980).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Field = Callable[[Tensor, Tensor], Tensor]  # states (n, ...), the time (), the same for all -> their derivatives
Step = Callable[[Field, Tensor, Tensor, Tensor], Tensor]  # field, states, from this time to that one
FixedSolver = Literal["euler", "midpoint", "heun", "rk4"]
Solver = Literal["euler", "midpoint", "heun", "rk4", "dopri5"]

# Of images in [-1, 1]: half a thousandth; a field that learnt pixels to their level bends over 1 / 128, and float32
# loses 0.01 nats of an image by it.
DIFFERENCE = 5e-4


def _euler(field: Field, x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    return x + (end - begin) * field(x, begin)


def _midpoint(field: Field, x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    half = 0.5 * (end - begin)
    return x + 2 * half * field(x + half * field(x, begin), begin + half)


def _heun(field: Field, x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    h, first = end - begin, field(x, begin)
    return x + 0.5 * h * (first + field(x + h * first, end))


def _rk4(field: Field, x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    h, middle = end - begin, 0.5 * (begin + end)
    first = field(x, begin)
    second = field(x + 0.5 * h * first, middle)
    third = field(x + 0.5 * h * second, middle)
    return x + h / 6 * (first + 2 * (second + third) + field(x + h * third, end))


STEPS: dict[FixedSolver, Step] = {"euler": _euler, "midpoint": _midpoint, "heun": _heun, "rk4": _rk4}


def integrate(field: Field, x: Tensor, times: Sequence[float], solver: Solver, tolerance: float) -> Tensor:
    """Follow a field from the first of the times to the last.

    A program that is exported has fixed steps in every case: those of rk4 stand for dopri5's.

    Args:
        field: (n, ...), () -> (n, ...).
        x: the states (n, ...) at the first time.
        times: of the fixed steps, rising or falling.
        solver: by name.
        tolerance: of dopri5, relative and absolute, for the root of each sample's mean squared error. Its steps fit
            the worst sample of the batch, so a sample depends on the others, by less than that.

    Returns:
        The states (n, ...) at the last time.
    """
    exporting = torch.compiler.is_exporting()
    if solver == "dopri5" and not exporting:
        return _adaptive(field, x, times, tolerance)
    step = STEPS["rk4" if solver == "dopri5" else solver]
    moments = torch.tensor(times, device=x.device, dtype=x.dtype)
    if exporting:
        return _scanned(field, step, x, moments)
    for begin, end in pairwise(moments):
        # Of a derivative by the latents, through all steps, only one step's maps are held at a time.
        if torch.is_grad_enabled() and x.requires_grad:
            x = checkpoint(step, field, x, begin, end, use_reentrant=False)
        else:
            x = step(field, x, begin, end)
    return x


def divergence(field: Field, x: Tensor, time: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x, t) and an unbiased estimate (n,) of its divergence, e' J e (Hutchinson, 1989).

    By reverse mode. A program that is exported cannot have derivatives; it has the central difference.

    Args:
        field: (n, d), () -> (n, d).
        x: (n, d).
        time: ().
        probe: e, (n, d) of mean 0 and covariance I.

    Returns:
        (n, d) and (n,).
    """
    if torch.compiler.is_exporting():
        ahead, behind = field(x + DIFFERENCE * probe, time), field(x - DIFFERENCE * probe, time)
        return 0.5 * (ahead + behind), ((ahead - behind) * probe).sum(1) / (2 * DIFFERENCE)
    found: Any = torch.func.vjp(lambda at: field(at, time), x)
    value, pull = found
    return value, (pull(probe)[0] * probe).sum(1)


def _scanned(field: Field, step: Step, x: Tensor, moments: Tensor) -> Tensor:
    """Take the same steps as one loop of the exported program, which would else hold the net once for each of them."""
    from torch._higher_order_ops.scan import scan  # has no public name yet

    def body(x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        x = step(field, x, pair[0], pair[1]).contiguous()
        return x, pair[0].clone()

    pairs = torch.stack((moments[:-1], moments[1:]), dim=1)
    final: Tensor = scan(body, x.contiguous(), pairs, dim=0)[0]
    return final


def _adaptive(field: Field, x: Tensor, times: Sequence[float], tolerance: float) -> Tensor:
    from torchdiffeq import odeint

    def worst(error: Tensor) -> Any:
        return error.flatten(1).square().mean(1).max().sqrt()

    ends = torch.tensor((times[0], times[-1]), device=x.device, dtype=x.dtype)

    def called(time: Tensor, state: Tensor) -> Tensor:
        return field(state, time.to(state.dtype))

    found: Tensor = odeint(called, x, ends, rtol=tolerance, atol=tolerance, method="dopri5", options={"norm": worst})
    return found[-1]
