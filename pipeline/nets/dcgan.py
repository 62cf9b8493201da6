"""The convolutional generator and critic of DCGAN (Radford et al., arXiv:1511.06434), for any pyramid size.

Legend: n samples, z latent dimensions, c image channels, s image size, w width.
"""

from itertools import pairwise

from torch import Tensor, nn

from pipeline.nets.initialization import initialize_dcgan
from pipeline.nets.layers import (
    Conditioning,
    Head,
    LabelledFeatures,
    LabelledImages,
    NormName,
    Upsampling,
    add_spectral_norm,
    as_weights_lie,
    doublings,
    norm,
    upsample,
)

MAX_FACTOR = 8  # channels grow to at most 8 times the width


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: a projection, learned upsampling, ReLU, tanh.

    The paper's upsampling is transposed convolutions of 4 x 4. With classes, an embedding of the label (n,) is added
    to the normalized projection.
    """

    def __init__(
        self,
        *,
        latent: int,
        channels: int,
        size: int,
        width: int,
        norm_name: NormName = "batch",
        upsampling: Upsampling = "transposed",
        spectral: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        base, steps = doublings(size)
        widths = [width * min(2**k, MAX_FACTOR) for k in reversed(range(steps))]
        bias = norm_name == "none"
        self.grid = (widths[0], base, base)
        self.project = nn.Linear(latent, widths[0] * base * base, bias=bias)
        self.norm = norm(norm_name, widths[0])
        self.label = LabelledFeatures(widths[0] * base * base, classes)
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [upsample(upsampling, before, after, bias=bias), norm(norm_name, after), nn.ReLU(inplace=True)]
        layers += [upsample(upsampling, widths[-1], channels), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialize_dcgan(self)
        if spectral:
            add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        grid = self.label(self.norm(self.project(latents).unflatten(1, self.grid)), labels)
        images: Tensor = self.layers(as_weights_lie(grid, self.layers))
        return images


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): strided convolutions of 4 x 4, leaky ReLU of slope 0.2.

    With classes, the label (n,) is projected on the last features, or concatenated to the images as a map.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        width: int,
        norm_name: NormName = "batch",
        outputs: int = 1,
        spectral: bool = False,
        classes: int = 0,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        base, steps = doublings(size)
        widths = [width * min(2**k, MAX_FACTOR) for k in range(steps)]
        bias = norm_name == "none"
        self.input = LabelledImages(channels, size, classes if conditioning == "concat" else 0)
        layers: list[nn.Module] = [nn.Conv2d(self.input.channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=bias), norm(norm_name, after)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.head = Head(widths[-1] * base * base, outputs, classes if conditioning == "projection" else 0)
        initialize_dcgan(self)
        if spectral:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(self.input(images, labels))
        scores: Tensor = self.head(features.flatten(1), labels)
        return scores
