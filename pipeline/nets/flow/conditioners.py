"""The networks inside couplings: (n, c, h, w) -> (n, outputs, h, w).

They give zero at first, so that every coupling begins near the identity.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline.core.world import World
from pipeline.nets.flow.bijections import ActNorm
from pipeline.nets.layers import NormName, norm


def initialize_actnorms(net: nn.Module, world: World, forward: Callable[[], object]) -> None:
    """Initialize every ActNorm inside ``net`` from what reaches it during ``forward``, in the order of the pass."""
    layers = [module for module in net.modules() if isinstance(module, ActNorm | ConvActNorm)]
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: layer.initialize(inputs[0], world)) for layer in layers
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()


class ConvZeros(nn.Conv2d):
    """A convolution that begins at zero, its outputs multiplied by exp(3 gain) (Glow's released code)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(outputs))
        set_to_zero(self)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        scale = (3.0 * self.gain).exp()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], self.bias * scale)


class ConvActNorm(nn.Conv2d):
    """A convolution and the ActNorm of its outputs, in one pass over them."""

    def __init__(self, channels: int, outputs: int, size: int) -> None:
        super().__init__(channels, outputs, size, padding=size // 2, bias=False)
        self.actnorm = ActNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.actnorm.log_scale.exp().flatten()
        shift = self.actnorm.shift.flatten()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift * scale)

    def initialize(self, x: Tensor, world: World) -> None:
        """Initialize the ActNorm from a batch of inputs, as ``ActNorm.initialize``."""
        self.actnorm.initialize(super().forward(x), world)


class ConvConditioner(nn.Module):
    """3 x 3, 1 x 1, 3 x 3 convolutions and ReLU (arXiv:1807.03039, section 4), each hidden one with ActNorm."""

    def __init__(self, channels: int, outputs: int, *, width: int, actnorm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, size in ((channels, 3), (width, 1)):
            plain = nn.Conv2d(before, width, size, padding=size // 2)
            convolution = ConvActNorm(before, width, size) if actnorm else plain
            nn.init.normal_(convolution.weight, 0.0, 0.05)
            layers += [convolution, nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, ConvZeros(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ResidualConditioner(nn.Module):
    """Pre-activation residual blocks of two 3 x 3 convolutions between an entry of ``entry`` x ``entry`` and
    an exit of 1 x 1. weighted: weight normalization of every convolution but the last."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        blocks: int,
        norm_name: NormName,
        entry: int,
        weighted: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        made = _weight_normalized if weighted else nn.Conv2d
        self.entry = made(channels, width, entry, padding=entry // 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(norm(norm_name, width), nn.ReLU(), made(width, width, 3, padding=1)),
                *(norm(norm_name, width), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                made(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        last = set_to_zero(nn.Conv2d(width, outputs, 1))
        self.exit = nn.Sequential(norm(norm_name, width), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.exit(x)
        return y


def set_to_zero(convolution: nn.Conv2d) -> nn.Conv2d:
    """Set every weight and bias of a convolution to 0, in place, and return it."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _weight_normalized(channels: int, outputs: int, size: int, *, padding: int) -> nn.Conv2d:
    convolution: nn.Conv2d = weight_norm(nn.Conv2d(channels, outputs, size, padding=padding))
    return convolution
