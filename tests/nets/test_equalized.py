"""Laws of equalized layers, pixel norm, the minibatch's deviation and filtered resampling."""

import math

import pytest
import torch
from torch import nn
from toy_data import toy_batch

from pipeline.nets import equalized
from pipeline.nets.resample import Resample


def test_equalized_layers_scale_unit_weights_by_hes_constant() -> None:
    layer, dense = equalized.EqualizedConv2d(50, 40, 3), equalized.EqualizedLinear(500, 40)
    slow = equalized.EqualizedLinear(500, 40, rate=0.01, bias=1.0)
    for weight, std in ((layer.weight, 1.0), (dense.weight, 1.0), (slow.weight, 100.0)):
        assert abs(float(weight.detach().std()) / std - 1) < 0.03
    for each in (layer, dense, slow):
        nn.init.ones_(each.weight)
    centre = torch.zeros(1, 50, 3, 3)
    centre[0, 0, 1, 1] = 1.0
    torch.testing.assert_close(layer(centre), torch.full((1, 40, 3, 3), math.sqrt(2 / (50 * 9))))
    torch.testing.assert_close(dense(torch.eye(500)[:1]), torch.full((1, 40), math.sqrt(2 / 500)))
    torch.testing.assert_close(slow(torch.eye(500)[:1]), torch.full((1, 40), 1.0 + 0.01 * math.sqrt(2 / 500)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3, 3)])
def test_pixel_norm_gives_unit_root_mean_square(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    power = equalized.pixel_norm(3 * torch.randn(shape)).square().mean(1)
    assert (power - 1).abs().max() < 1e-5


def test_minibatch_stddev_in_closed_form() -> None:
    maps = torch.zeros(8, 2, 3, 3)
    maps[:4, 0] = torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None, None]  # deviation 1 in one of two channels
    maps[4:] = 5.0
    out = equalized.minibatch_stddev(maps)
    assert torch.equal(out[:, :2], maps) and out.shape == (8, 3, 3, 3)
    expected = torch.tensor([0.5] * 4 + [0.0] * 4)[:, None, None].expand(8, 3, 3)
    torch.testing.assert_close(out[:, 2], expected, rtol=0, atol=2e-4)


def test_minibatch_stddev_is_that_of_contiguous_shares() -> None:
    maps = toy_batch(16).images
    whole, parts = equalized.minibatch_stddev(maps), [equalized.minibatch_stddev(part) for part in maps.chunk(2)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-7)
    pairs = torch.cat([equalized.minibatch_stddev(pair, 2) for pair in maps[:6].chunk(3)])
    torch.testing.assert_close(equalized.minibatch_stddev(maps[:6]), pairs, rtol=0, atol=1e-7)


def test_resampling_keeps_a_constant_and_moves_nothing() -> None:
    resample, ones = Resample(), torch.ones(2, 3, 8, 8)
    for result, size in ((resample.up(ones), 16), (resample.down(ones), 4), (resample.blur(ones, margin=2), 9)):
        assert result.shape == (2, 3, size, size)
        assert (result[:, :, 2:-2, 2:-2] - 1).abs().max() < 1e-6 if size > 4 else (result[:, :, 1:-1, 1:-1] == 1).all()
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    inner = (resample.up(ramp)[0, 0, 8, 2:-2] - (torch.arange(2.0, 14.0) - 0.5) / 2).abs()
    assert inner.max() < 1e-5  # pixel centres stay where they are
    assert (resample.down(ramp)[0, 0, 2, 1:-1] - torch.tensor([2.5, 4.5])).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["up", "down"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_resampling_in_bfloat16_is_that_of_float32_rounded_once(kind: str, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 6, 6).bfloat16().contiguous(memory_format=memory_format).requires_grad_()
    wide, resample = maps.detach().float().requires_grad_(), getattr(Resample(), kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = resample(maps)
    exact = resample(wide)
    assert found.dtype is torch.bfloat16 and torch.equal(found, exact.bfloat16())
    gradient = torch.randn_like(exact).bfloat16()
    found.backward(gradient)
    exact.backward(gradient.float())
    assert maps.grad is not None and wide.grad is not None
    assert torch.equal(maps.grad, wide.grad.bfloat16())


def test_resampling_keeps_the_precision_that_it_is_given() -> None:
    resample, images = Resample(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for scale in (resample.up, resample.down):
        with torch.autocast("cpu", torch.bfloat16):
            assert scale(images).dtype is torch.float64
            assert scale(images.float()).dtype is torch.float32
        assert (scale(images) - scale(images.float())).abs().max() < 1e-6
