"""Laws of the invertible layers: they invert, their log-determinants are the Jacobians', splines are smooth."""

import pytest
import torch
from small_flows import jacobian_logdet, moments, net, normal, shaken
from torch import Tensor

from pipeline.nets.flow.bijections import ActNorm, BatchNorm, Bijection, Center, Chain, InvertibleConv, Logit, Squeeze
from pipeline.nets.flow.conditioners import ConvConditioner, ConvZeros
from pipeline.nets.flow.couplings import Checkerboard, Coupling
from pipeline.nets.flow.elements import SigmoidAffine, Spline, Standardize, TanhAffine


def batch_norm() -> Bijection:
    layer = BatchNorm(4)
    layer.mean.normal_(), layer.variance.uniform_(0.5, 2.0)
    return layer


def layer(name: str) -> Bijection:
    """Each kind of layer by name, with weights that are not at their beginning."""
    torch.manual_seed(0)
    made = {
        "center": Center,
        "squeeze": Squeeze,
        "actnorm": lambda: ActNorm(4),
        "batch_norm": batch_norm,
        "invertible_conv": lambda: InvertibleConv(4),
        "tanh_affine": lambda: Coupling(net(2, 4), TanhAffine(2)),
        "swapped": lambda: Coupling(net(2, 4), TanhAffine(2), swap=True),
        "sigmoid_affine": lambda: Coupling(ConvConditioner(2, 4, width=8, actnorm=True), SigmoidAffine()),
        "bounded_affine": lambda: Coupling(ConvConditioner(2, 4, width=8, actnorm=True), SigmoidAffine(0.5)),
        "standardize": lambda: Coupling(ConvZeros(2, 4), Standardize()),
        "spline": lambda: Coupling(net(2, 22), Spline(4, 2.0)),
        "checkerboard": lambda: Checkerboard(net(4, 8), TanhAffine(4), stays=0),
        "other_colour": lambda: Checkerboard(net(4, 44), Spline(4, 2.0), stays=1),
        "chain": lambda: Chain([ActNorm(4), Squeeze(), InvertibleConv(16)]),
    }
    return shaken(made[name]())  # type: ignore[no-any-return, operator]


LAYERS = [
    *("center", "squeeze", "actnorm", "batch_norm", "invertible_conv", "tanh_affine", "swapped", "sigmoid_affine"),
    *("bounded_affine", "standardize", "spline", "checkerboard", "other_colour", "chain"),
]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_inverts(name: str) -> None:
    made, x = layer(name), normal(5, 4, 6, 6)
    before = x.clone()
    with torch.no_grad():
        y, logdet = made(x)
        assert (made.inverse(y) - x).abs().max() < 1e-5
        assert y.shape[1:] == made.shape_after(x.shape[1:]) and logdet.shape == (5,)
        again, same = made(x)
        assert torch.equal(again, y) and torch.equal(same, logdet) and torch.equal(x, before)
        y, _ = made.double()(x.double())
        copied = y.clone()
        assert (made.inverse(y) - x.double()).abs().max() < 1e-9
    assert torch.equal(y, copied)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_log_determinant_is_its_jacobians(name: str) -> None:
    made, x = layer(name).double(), normal(2, 4, 2, 2).double()
    torch.testing.assert_close(made(x)[1], jacobian_logdet(made, x), rtol=1e-9, atol=1e-9)


def test_the_logit_inverts_and_its_log_determinant_is_its_jacobians() -> None:
    made, x = Logit(0.05), torch.linspace(0, 1, 12).view(3, 1, 2, 2)
    y, logdet = made(x.double())
    assert (made.inverse(y) - x.double()).abs().max() < 1e-9 and (made.inverse(made(x)[0]) - x).abs().max() < 1e-5
    torch.testing.assert_close(logdet, jacobian_logdet(made, x.double()), rtol=1e-9, atol=1e-9)


def test_squeeze_parts_the_colours_of_a_checkerboard() -> None:
    x = torch.arange(32.0).view(1, 2, 4, 4)
    y, _ = Squeeze()(x)
    colour = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    even, odd = y.chunk(2, dim=1)
    assert set(even.flatten().tolist()) == set(x[:, :, colour == 0].flatten().tolist())
    assert set(odd.flatten().tolist()) == set(x[:, :, colour == 1].flatten().tolist())
    assert y[0, :, 1, 0].tolist() == [8, 24, 13, 29, 9, 25, 12, 28]  # both channels of (2, 0), (3, 1), (2, 1), (3, 0)


def test_batch_norm_takes_the_batchs_statistics_in_training_and_running_ones_after() -> None:
    made, x = BatchNorm(3, momentum=1.0).train(), normal(16, 3, 4, 4) * 3 + 1
    y, logdet = made(x)
    mean, variance = moments(y)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-4)
    same, equal = made.eval()(x)
    torch.testing.assert_close(same, y, rtol=0, atol=1e-5)
    torch.testing.assert_close(equal, logdet, rtol=0, atol=1e-4)


# Splines.


def spline(bins: int = 6, bound: float = 2.0, scale: float = 2.0) -> tuple[Spline, Tensor]:
    made = Spline(bins, bound).double()
    return made, scale * normal(made.numbers, 1, 1, 1, 1, seed=4).double()


def along(made: Spline, numbers: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One spline at the points x (m,): y and dy/dx."""
    y, logdet = made(x.view(1, 1, 1, -1), numbers.expand(-1, 1, 1, 1, len(x)))
    return y.flatten(), logdet.exp().flatten()


def test_a_spline_is_increasing_and_its_derivative_is_autograds() -> None:
    made, numbers = spline()
    x = torch.linspace(-3, 3, 20_001, dtype=torch.float64).requires_grad_()
    y, slope = along(made, numbers, x)
    (truth,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, truth, rtol=1e-9, atol=1e-9)
    assert (y.diff() > 0).all() and slope.min() > 0 and slope.max() > 2 * slope.min()
    outside = x.abs() > 2.0
    assert torch.equal(y[outside], x[outside]) and (slope[outside] == 1).all()


def test_a_splines_value_and_derivative_are_continuous_at_the_knots_and_the_ends() -> None:
    made, numbers = spline()
    with torch.no_grad():
        knots = made._knots(numbers[: made.bins].flatten(1)).flatten()
        assert knots[0] == -2.0 and knots[-1] == 2.0 and (knots.diff() > 0).all()
        (y0, slope0), (y1, slope1) = (along(made, numbers, knots + side * 1e-9) for side in (-1, 1))
    assert (y0 - y1).abs().max() < 1e-7 and (slope0 - slope1).abs().max() < 1e-5
    assert abs(slope0[0] - 1) < 1e-6 and abs(slope1[-1] - 1) < 1e-6


def test_a_spline_of_zeros_is_the_identity() -> None:
    made, numbers = spline(scale=0.0)
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    y, slope = along(made, numbers, x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, torch.ones_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_a_splines_inverse_is_exact(scale: float) -> None:
    made = Spline(8, 3.0)
    x, numbers = normal(64, 2, 4, 4) * 2, scale * normal(made.numbers, 64, 2, 4, 4, seed=6)
    y, _ = made.double()(x.double(), numbers.double())
    assert (made.inverse(y, numbers.double()) - x.double()).abs().max() < 1e-9
    y, logdet = made(x, numbers)
    error, steepest = (made.inverse(y, numbers) - x).abs(), (-logdet).exp().clamp(min=1)
    assert (error / steepest).max() < 1e-5  # y's last digit weighs dx/dy


def test_a_bounded_coupling_grows_by_at_most_its_bound_on_the_way_back() -> None:
    raw = torch.tensor([-1e4, -50.0, 0.0, 50.0])
    numbers, x = torch.stack([torch.zeros(4), raw]), torch.ones(4)
    for least in (0.0, 0.25, 0.5):
        element = SigmoidAffine(least)
        y, log_scale = element(x, numbers)
        torch.testing.assert_close(y, least + (1 - least) * (raw + 2).sigmoid())
        torch.testing.assert_close(log_scale.exp(), y)
    torch.testing.assert_close(SigmoidAffine(0.5).inverse(x, numbers)[0], torch.tensor(2.0))
    assert SigmoidAffine(0.0).inverse(x, numbers)[0].isinf()
