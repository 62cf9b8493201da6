"""How the weights of a whole net are drawn: one pass over its layers, whose rule each paper gives."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pipeline.nets.layers import Projection

Rule = Callable[[Any], object]  # of a layer
LAYERS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Projection)


def initialize(net: nn.Module, draw: Rule, *, layers: tuple[type[nn.Module], ...] = LAYERS) -> None:
    """Draw the weights of a net's layers in the order of its modules, in place; their biases become 0.

    Args:
        net: the net, before spectral norm is added.
        draw: draws the weights of one layer, in place.
        layers: the classes of layers that it draws.
    """
    for module in net.modules():
        if isinstance(module, layers):
            draw(module)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                nn.init.zeros_(bias)


def initialize_dcgan(net: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and scales of norms from N(1, 0.02); biases and shifts become 0.

    Section 4 of Radford et al., arXiv:1511.06434.
    """
    norms = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    initialize(
        net,
        lambda layer: nn.init.normal_(layer.weight, 1.0 if isinstance(layer, norms) else 0.0, 0.02),
        layers=(*LAYERS, *norms),
    )
