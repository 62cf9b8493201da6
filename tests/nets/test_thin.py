"""Convolutions on the images' side: what torch's own give, and their derivatives of first and second order."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pipeline.nets import thin
from pipeline.nets.thin import ThinConv2d, ThinConvTranspose2d

GEOMETRY = [(4, 2, 1, 8), (3, 1, 1, 7), (4, 2, 1, 9), (5, 3, 2, 11)]  # kernel, stride, padding, size


def pair(kind: type[nn.Module], channels: int, kernel: int, stride: int, padding: int) -> tuple[nn.Module, nn.Module]:
    """torch's own layer and ours, with the same parameters."""
    own = {ThinConv2d: nn.Conv2d, ThinConvTranspose2d: nn.ConvTranspose2d}[kind]
    sides = (channels, 5) if kind is ThinConv2d else (5, channels)
    theirs, ours = (made(*sides, kernel, stride, padding) for made in (own, kind))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def derivatives(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """Output, gradients, and gradients of a penalty on the gradient with respect to the images."""
    images = images.clone().requires_grad_(True)
    found = layer(images)
    gradients = torch.autograd.grad(found.pow(3).sum(), [images, *layer.parameters()], create_graph=True)
    penalty = (gradients[0].square().flatten(1).sum(1).sqrt() - 1).square().mean() + gradients[1].square().sum()
    return [found, *gradients, *torch.autograd.grad(penalty, [images, *layer.parameters()])]


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), GEOMETRY)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [ThinConv2d, ThinConvTranspose2d])
def test_values_and_derivatives_are_those_of_torchs_own(
    kind: type[nn.Module], channels: int, kernel: int, stride: int, padding: int, size: int, monkeypatch
) -> None:
    torch.manual_seed(0)
    theirs, ours = pair(kind, channels, kernel, stride, padding)
    images = torch.randn(2, channels if kind is ThinConv2d else 5, size, size)
    calls, original = [], thin.fold
    monkeypatch.setattr(thin, "fold", lambda *a, **k: calls.append(1) or original(*a, **k))
    for layout in (torch.contiguous_format, torch.channels_last):
        expected = derivatives(theirs.to(memory_format=layout), images.contiguous(memory_format=layout))
        found = derivatives(ours.to(memory_format=layout), images.contiguous(memory_format=layout))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))
    assert calls, "it was computed in torch's own way"


def test_second_derivatives_by_finite_differences(monkeypatch) -> None:
    monkeypatch.setattr(thin, "_is_for_us", lambda *a: True)  # in float64 too
    torch.manual_seed(1)
    for layer in (ThinConv2d(1, 2, 4, 2, 1).double(), ThinConvTranspose2d(2, 1, 4, 2, 1).double()):
        images = torch.randn(2, 1 if isinstance(layer, ThinConv2d) else 2, 4, 4).double().requires_grad_(True)
        weight = layer.weight.detach().requires_grad_(True)

        def function(images: Tensor, weight: Tensor, layer: nn.Module = layer) -> Tensor:
            return torch.func.functional_call(layer, {"weight": weight}, (images,))

        assert torch.autograd.gradgradcheck(function, (images, weight))


@pytest.mark.parametrize("what", ["evaluation", "bf16", "many channels", "float64"])
def test_elsewhere_it_is_torchs_own_to_the_bit(what: str, monkeypatch) -> None:
    monkeypatch.setattr(thin, "fold", None)
    channels = 8 if what == "many channels" else 1
    theirs, ours = pair(ThinConvTranspose2d, channels, 4, 2, 1)
    images = torch.randn(2, 5, 8, 8)
    if what == "evaluation":
        ours.eval()
    if what == "float64":
        theirs, ours, images = theirs.double(), ours.double(), images.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=what == "bf16"):
        assert torch.equal(ours(images), theirs(images))


def test_without_gradients_to_the_images_a_convolution_is_torchs_own_to_the_bit() -> None:
    theirs, ours = pair(ThinConv2d, 1, 4, 2, 1)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours(images), conv2d(images, ours.weight, ours.bias, 2, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_gradients_stay_in_channels_last_memory(channels: int) -> None:
    last = torch.channels_last
    grow = ThinConvTranspose2d(5, channels, 4, 2, 1).to(memory_format=last)
    shrink = ThinConv2d(channels, 5, 4, 2, 1).to(memory_format=last)
    maps = torch.randn(2, 5, 8, 8).contiguous(memory_format=last).requires_grad_(True)
    images = grow(maps)
    seen = shrink(images)
    found = [images, seen]
    for tensor in (maps, images):
        tensor.register_hook(found.append)
    (seen * torch.randn_like(seen)).sum().backward()
    assert len(found) == 4
    # By its strides too: else torch takes one channel for contiguous, and computes ten times as long.
    assert all(tensor.stride(1) == 1 for tensor in found), [tensor.stride() for tensor in found]
