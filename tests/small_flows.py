"""What the tests of flows share: small layers, shaken weights, Jacobians."""

import torch
from torch import Tensor, nn

from pipeline.nets.flow.conditioners import ResidualConditioner


def shaken(net: nn.Module, amount: float = 0.2) -> nn.Module:
    """The net with every weight moved, so that nothing is the identity; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def normal(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net(channels: int, outputs: int) -> nn.Module:
    return ResidualConditioner(channels, outputs, width=8, blocks=1, norm_name="none", entry=3, weighted=True)


def jacobian_logdet(function: nn.Module, x: Tensor) -> Tensor:
    """(n,): log |det| of autograd's Jacobian, one sample at a time."""
    return torch.stack(
        [
            torch.linalg.slogdet(
                torch.autograd.functional.jacobian(lambda one: function(one[None])[0].flatten(), row)
                .flatten(1)
                .reshape(row.numel(), row.numel())
            ).logabsdet
            for row in x
        ]
    )


# Data-dependent initialization.


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
