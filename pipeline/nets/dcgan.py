"""The convolutional generator and critic of DCGAN (Radford et al., arXiv:1511.06434), for any pyramid size.

Legend: n samples, z latent dimensions, c image channels, s image size, w width.
"""

from itertools import pairwise

from torch import Tensor, nn

from pipeline.nets.initialization import initialize_dcgan
from pipeline.nets.layers import (
    Head,
    LabelledFeatures,
    LabelledImages,
    add_spectral_norm,
    as_weights_lie,
    doublings,
    flattened,
    norm,
    upsample,
)
from pipeline.nets.shapes import CriticShape, GeneratorShape
from pipeline.nets.thin import FEW, ThinConv2d

MAX_FACTOR = 8  # channels grow to at most 8 times the width


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: a projection, learned upsampling, ReLU, tanh.

    The paper's upsampling is transposed convolutions of 4 x 4. With classes, an embedding of the label (n,) is added
    to the normalized projection.
    """

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        base, steps = doublings(shape.size)
        widths = [shape.width * min(2**k, MAX_FACTOR) for k in reversed(range(steps))]
        bias = shape.norm_name == "none"
        self.grid = (widths[0], base, base)
        self.project = nn.Linear(shape.latent, widths[0] * base * base, bias=bias)
        self.norm = norm(shape.norm_name, widths[0])
        self.label = LabelledFeatures(widths[0] * base * base, shape.classes)
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [
                upsample(shape.upsampling, before, after, bias=bias),
                norm(shape.norm_name, after),
                nn.ReLU(inplace=True),
            ]
        layers += [upsample(shape.upsampling, widths[-1], shape.channels), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialize_dcgan(self)
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        grid = as_weights_lie(self.project(latents).unflatten(1, self.grid), self.layers)
        images: Tensor = self.layers(self.label(self.norm(grid), labels))
        return images


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): strided convolutions of 4 x 4, leaky ReLU of slope 0.2.

    With classes, the label (n,) is projected on the last features, or concatenated to the images as a map.
    """

    def __init__(self, shape: CriticShape) -> None:
        super().__init__()
        base, steps = doublings(shape.size)
        widths = [shape.width * min(2**k, MAX_FACTOR) for k in range(steps)]
        bias = shape.norm_name == "none"
        self.input = LabelledImages(shape.channels, shape.size, shape.concatenated)
        first = ThinConv2d if self.input.channels <= FEW else nn.Conv2d
        layers: list[nn.Module] = [first(self.input.channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=bias), norm(shape.norm_name, after)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.head = Head(widths[-1] * base * base, shape.outputs, shape.projected)
        initialize_dcgan(self)
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(self.input(images, labels))
        scores: Tensor = self.head(flattened(features), labels)
        return scores
