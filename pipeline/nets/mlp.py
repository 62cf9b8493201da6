"""Fully connected generator and critic, for images of any size.

Goodfellow et al., arXiv:1406.2661: two hidden layers each; rectifiers in the generator. In the critic leaky
ReLU stands for the paper's maxout with dropout, whose random numbers belong to no sample.

Legend: n samples, z latent dimensions, c image channels, s image size, w units of a hidden layer.
"""

from torch import Tensor, nn

from pipeline.nets.layers import (
    Head,
    LabelledFeatures,
    LabelledImages,
    add_spectral_norm,
    vector_norm,
)
from pipeline.nets.shapes import CriticShape, GeneratorShape


class Generator(nn.Module):
    """(n, z) -> (n, c, s, s) in [-1, 1]: two hidden layers, tanh. There is nothing to upsample.

    With classes, an embedding of the label (n,) is added to the first layer's normalized features.
    """

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        width, pixels = shape.width, shape.channels * shape.size**2
        self.first = nn.Sequential(nn.Linear(shape.latent, width), vector_norm(shape.norm_name, width))
        self.label = LabelledFeatures(width, shape.classes)
        self.layers = nn.Sequential(
            *(nn.ReLU(), nn.Linear(width, width), vector_norm(shape.norm_name, width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, pixels), nn.Tanh(), nn.Unflatten(1, (shape.channels, shape.size, shape.size))),
        )
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(self.label(self.first(latents), labels))
        return images


class Critic(nn.Module):
    """(n, c, s, s) -> (n, outputs): two hidden layers, leaky ReLU of slope 0.2.

    With classes, the label (n,) is projected on the last features, or concatenated to the images as a map.
    """

    def __init__(self, shape: CriticShape) -> None:
        super().__init__()
        self.input = LabelledImages(shape.channels, shape.size, shape.concatenated)
        width, pixels = shape.width, self.input.channels * shape.size**2
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(pixels, width), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Linear(width, width), vector_norm(shape.norm_name, width), nn.LeakyReLU(0.2, inplace=True)),
        )
        self.head = Head(width, shape.outputs, shape.projected)
        if shape.spectral:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(self.layers(self.input(images, labels)), labels)
        return scores
