"""The convolutional generator and critic of DCGAN (Radford et al., arXiv:1511.06434), for any pyramid size.

Legend: n samples, z latent dimensions, c image channels, s image size, w width.
"""

from itertools import pairwise

from torch import Tensor, nn

from pipeline.nets.layers import as_weights_lie, doublings, norm

MAX_FACTOR = 8  # channels grow to at most 8 times the width


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: a projection, transposed convolutions of 4 x 4, ReLU, tanh."""

    def __init__(self, *, latent: int, channels: int, size: int, width: int, norm_name: str = "batch") -> None:
        super().__init__()
        base, steps = doublings(size)
        widths = [width * min(2**k, MAX_FACTOR) for k in reversed(range(steps))]
        bias = norm_name == "none"
        self.project = nn.Linear(latent, widths[0] * base * base, bias=bias)
        self.grid = (widths[0], base, base)
        layers: list[nn.Module] = [norm(norm_name, widths[0]), nn.ReLU(inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias), norm(norm_name, after)]
            layers += [nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, latents: Tensor) -> Tensor:
        grid = self.project(latents).unflatten(1, self.grid)
        images: Tensor = self.layers(as_weights_lie(grid, self.layers))
        return images


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): strided convolutions of 4 x 4, leaky ReLU of slope 0.2."""

    def __init__(self, *, channels: int, size: int, width: int, norm_name: str = "batch", outputs: int = 1) -> None:
        super().__init__()
        base, steps = doublings(size)
        widths = [width * min(2**k, MAX_FACTOR) for k in range(steps)]
        bias = norm_name == "none"
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=bias), norm(norm_name, after)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        layers += [nn.Conv2d(widths[-1], outputs, base)]
        self.layers = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores.flatten(1)


def initialize(module: nn.Module) -> None:
    """Section 4 of the paper: weights from N(0, 0.02); norm scales from N(1, 0.02), shifts 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
