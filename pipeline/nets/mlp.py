"""Fully connected generator and critic, for images of any size.

Goodfellow et al., arXiv:1406.2661: two hidden layers each; rectifiers in the generator. In the critic leaky
ReLU stands for the paper's maxout with dropout, whose random numbers belong to no sample.

Legend: n samples, z latent dimensions, c image channels, s image size, w units of a hidden layer.
"""

from torch import Tensor, nn

from pipeline.nets.layers import (
    Conditioning,
    Head,
    LabelledFeatures,
    LabelledImages,
    NormName,
    Upsampling,
    add_spectral_norm,
    vector_norm,
)


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: two hidden layers, tanh. There is nothing to upsample.

    With classes, an embedding of the label (n,) is added to the first layer's normalized features.
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
        self.first = nn.Sequential(nn.Linear(latent, width), vector_norm(norm_name, width))
        self.label = LabelledFeatures(width, classes)
        self.layers = nn.Sequential(
            *(nn.ReLU(), nn.Linear(width, width), vector_norm(norm_name, width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, channels * size * size), nn.Tanh(), nn.Unflatten(1, (channels, size, size))),
        )
        if spectral:
            add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(self.label(self.first(latents), labels))
        return images


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): two hidden layers, leaky ReLU of slope 0.2.

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
        self.input = LabelledImages(channels, size, classes if conditioning == "concat" else 0)
        inputs = self.input.channels * size * size
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(inputs, width), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Linear(width, width), vector_norm(norm_name, width), nn.LeakyReLU(0.2, inplace=True)),
        )
        self.head = Head(width, outputs, classes if conditioning == "projection" else 0)
        if spectral:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(self.layers(self.input(images, labels)), labels)
        return scores
