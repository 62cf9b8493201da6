"""The generator and critic of StyleGAN2 (Karras et al., arXiv:1912.04958), in pure torch, for any pyramid size.

The generator maps latents to styles w, which scale the channels of every convolution, and sums images of all
resolutions; the critic is residual. Resampling is filtered with the FIR kernel [1, 3, 3, 1].

Legend: n samples, z latent dimensions (of w too), L styles per image, c image channels, s image size.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, leaky_relu, linear

from pipeline.core.world import World
from pipeline.nets.equalized import HE, SLOPE, EqualizedConv2d, EqualizedLinear, minibatch_stddev, pixel_norm
from pipeline.nets.layers import as_weights_lie, flattened
from pipeline.nets.resample import Resample
from pipeline.nets.shapes import PyramidShape

MAPPING_RATE = 0.01  # of the mapping's learning rate to the other layers' (Karras et al., arXiv:1812.04948)
STYLE_DECAY = 0.995  # of the running mean of w, per step
PATH_DECAY = 0.99  # of the running mean of path lengths, per step with a path penalty
_EPSILON = 1e-8
_ROOT = 1e-12  # under a norm's root: its gradient is finite where the image is flat


class ModulatedConv2d(nn.Module):
    """A convolution whose weights each sample scales: (n, before, h, w), styles (n, z) -> (n, after, h or 2h, ...).

    w'_oik = s_i w_oik, and with ``demodulate`` w'_oik / |w'_o|_2 (section 2.2, eq. 1 and 3). Computed as scaled
    inputs, one convolution with the shared weights, and scaled outputs: the same as a convolution per sample.
    """

    def __init__(
        self, before: int, after: int, kernel: int, *, styles: int, demodulate: bool = True, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(before, after, kernel, gain=1.0, bias=False)
        self.style = EqualizedLinear(styles, before, gain=1.0, bias=1.0)
        self.demodulate, self.upsample = demodulate, upsample
        self.resample = Resample()

    def forward(self, maps: Tensor, w: Tensor) -> Tensor:
        maps, factor = self.unscaled(maps, w)
        return maps if factor is None else maps * factor[:, :, None, None]

    def unscaled(self, maps: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the maps, and by what each is still to be multiplied, (n, after); None: by nothing."""
        style, weight = self.style(w), self.conv.weight * self.conv.scale
        maps = maps * style[:, :, None, None]
        if self.upsample:
            maps = conv_transpose2d(maps, weight.transpose(0, 1), stride=2)
            maps = self.resample.blur(maps, margin=1, gain=4.0)
        else:
            maps = self.conv(maps)
        if not self.demodulate:
            return maps, None
        energy = linear(style.square(), weight.square().sum((2, 3)))
        return maps, (energy + _EPSILON).rsqrt()


class StyledConv(nn.Module):
    """A modulated convolution of 3 x 3, noise of a learned strength, bias, leaky ReLU."""

    def __init__(self, before: int, after: int, *, styles: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(before, after, 3, styles=styles, upsample=upsample)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, maps: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        # The gain goes through the rectifier, so it costs a product of small tensors and not one of all maps.
        maps, factor = self.conv.unscaled(maps, w)
        assert factor is not None
        maps = maps * (HE * factor).to(maps.dtype)[:, :, None, None] + self._shift(maps, noise)
        return leaky_relu(maps, SLOPE, inplace=True)

    def _shift(self, maps: Tensor, noise: Tensor | None) -> Tensor:
        """Bias and noise, in the memory format of the maps: sums of two formats take several times as long."""
        bias = HE * self.bias
        if noise is None:
            return bias.to(maps.dtype)[:, None, None]
        if not maps.is_contiguous(memory_format=torch.channels_last):
            return (bias[:, None, None] + HE * self.strength * noise).to(maps.dtype)
        shift = bias + HE * self.strength * noise.movedim(1, -1)
        return shift.to(maps.dtype).movedim(-1, 1)


class ToImage(nn.Module):
    """(n, before, h, w), styles -> (n, c, h, w): modulated, not demodulated, 1 x 1."""

    def __init__(self, before: int, channels: int, *, styles: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(before, channels, 1, styles=styles, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, w: Tensor) -> Tensor:
        maps = self.conv(maps, w)
        return maps + self.bias[:, None, None].to(maps.dtype)


class Mapping(nn.Module):
    """(n, z), labels -> w (n, z): a multilayer perceptron from unit length, slow to learn.

    With classes, an embedding of the label, also of unit length, comes behind the latents (Karras et al.,
    arXiv:2006.06676). Its buffers are ``average`` (z,), the running mean of w, and ``latest`` (z,), the mean over the
    last training batch.
    """

    average: Tensor
    latest: Tensor

    def __init__(self, latent: int, layers: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, latent) if classes else None
        first = 2 * latent if classes else latent
        sizes = [first] + [latent] * layers
        self.layers = nn.ModuleList(EqualizedLinear(*pair, rate=MAPPING_RATE) for pair in pairwise(sizes))
        self.register_buffer("average", torch.zeros(latent))
        self.register_buffer("latest", torch.zeros(latent))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        features = pixel_norm(latents)
        if self.embedding is not None:
            features = torch.cat((features, pixel_norm(self.embedding(labels))), dim=1)
        for layer in self.layers:
            features = leaky_relu(layer(features), SLOPE)
        if self.training:
            self.latest.copy_(features.detach().mean(0))
        return features


class Generator(nn.Module):
    """(n, z), labels -> (n, c, s, s): linear in the last features; in evaluation mode cut to [-1, 1].

    path_mean: the running mean of path lengths; path_latest: that of the last batch with a path penalty.
    """

    path_mean: Tensor
    path_latest: Tensor

    def __init__(self, shape: PyramidShape, *, latent: int, mapping_layers: int) -> None:
        super().__init__()
        sizes = shape.widths()
        self.mapping = Mapping(latent, mapping_layers, shape.classes)
        self.constant = nn.Parameter(torch.randn(sizes[0], shape.base, shape.base))
        self.first = StyledConv(sizes[0], sizes[0], styles=latent)
        self.blocks = nn.ModuleList(UpBlock(before, after, latent) for before, after in pairwise(sizes))
        self.to_image = nn.ModuleList(ToImage(now, shape.channels, styles=latent) for now in sizes)
        self.resample = Resample()
        self.styles = 2 * shape.steps + 2  # per level one for each convolution; an image shares the next level's first
        self.noises = [shape.base**2] + [
            (shape.base * 2**level) ** 2 for level in range(1, shape.steps + 1) for _ in range(2)
        ]
        self.register_buffer("path_mean", torch.zeros(()))
        self.register_buffer("path_latest", torch.zeros(()))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate with one style for the whole image, and no noise."""
        return self.synthesis(self.repeated(self.mapping(latents, labels)))

    def repeated(self, w: Tensor) -> Tensor:
        """Repeat one style for every layer: (n, z) -> (n, L, z)."""
        return w[:, None].expand(-1, self.styles, -1)

    def mixed(self, first: Tensor, second: Tensor, crossing: Tensor) -> Tensor:
        """Mix styles (n, z) to (n, L, z): the first below layer ``crossing`` (n,), from there on the second."""
        layers = torch.arange(self.styles, device=crossing.device)
        return torch.where((layers < crossing[:, None])[:, :, None], first[:, None], second[:, None])

    def synthesis(self, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """Generate images from the styles of every layer.

        Args:
            styles: (n, L, z).
            noise: standard normal, (n, sum of noises): the pixels of every layer's map in a row; None: no noise.

        Returns:
            (n, c, s, s); in evaluation mode cut to [-1, 1].
        """
        inputs = self._split(noise)
        start = self.constant.expand(styles.shape[0], -1, -1, -1)  # len() would fix the size of an exported batch
        maps = self.first(as_weights_lie(start, self), styles[:, 0], inputs[0])
        images: Tensor = self.to_image[0](maps, styles[:, 1])
        for k, (block, to_image) in enumerate(zip(self.blocks, self.to_image[1:], strict=True)):
            first, second, third = styles[:, 2 * k + 1 : 2 * k + 4].unbind(1)
            maps = block(maps, first, second, inputs[2 * k + 1], inputs[2 * k + 2])
            images = self.resample.up(images) + to_image(maps, third)
        return images if self.training else images.clamp(-1.0, 1.0)

    @torch.no_grad()
    def follow(self, world: World) -> None:
        """Move the running means by what all workers' batches gave; for after a step, a collective operation.

        Where no path was measured, the latest length is the mean itself, and the mean stays.
        """
        world.average([self.mapping.latest, self.path_latest])
        self.mapping.average.lerp_(self.mapping.latest, 1 - STYLE_DECAY)
        self.path_mean.lerp_(self.path_latest, 1 - PATH_DECAY)
        self.path_latest.copy_(self.path_mean)

    def _split(self, noise: Tensor | None) -> list[Tensor | None]:
        if noise is None:
            return [None] * len(self.noises)
        return [part.unflatten(1, (1, math.isqrt(part.shape[1]), -1)) for part in noise.split(self.noises, dim=1)]


class UpBlock(nn.Module):
    """(n, before, h, w), two styles, two noises -> (n, after, 2h, 2w)."""

    def __init__(self, before: int, after: int, styles: int) -> None:
        super().__init__()
        self.conv1 = StyledConv(before, after, styles=styles, upsample=True)
        self.conv2 = StyledConv(after, after, styles=styles)

    def forward(self, maps: Tensor, w1: Tensor, w2: Tensor, noise1: Tensor | None, noise2: Tensor | None) -> Tensor:
        maps = self.conv2(self.conv1(maps, w1, noise1), w2, noise2)
        return maps


def path_lengths(images: Tensor, styles: Tensor, directions: Tensor) -> Tensor:
    """Return |J_w^T y|_2, its root mean square over an image's styles (appendix B), differentiable again.

    Args:
        images: (n, c, s, s).
        styles: (n, L, z), of which the images are made.
        directions: y ~ N(0, I), (n, c, s, s).

    Returns:
        (n,).
    """
    projected = (images * directions).sum() / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad(projected, styles, create_graph=True)
    return (gradient.square().sum(2).mean(1) + _ROOT).sqrt()


class Critic(nn.Module):
    """(n, c, s, s), labels -> (n, 1): residual blocks, the minibatch's deviation (groups of 4 neighbours), two layers.

    With classes, the score is the inner product of the last features with an embedding of the label.
    """

    def __init__(self, shape: PyramidShape) -> None:
        super().__init__()
        sizes = shape.widths()
        self.from_image = EqualizedConv2d(shape.channels, sizes[-1], 1)
        self.blocks = nn.ModuleList(DownBlock(before, after) for before, after in pairwise(reversed(sizes)))
        self.last = EqualizedConv2d(sizes[0] + 1, sizes[0], 3)
        self.hidden = EqualizedLinear(sizes[0] * shape.base**2, sizes[0])
        self.score = EqualizedLinear(sizes[0], sizes[0] if shape.classes else 1, gain=1.0)
        self.embedding = nn.Embedding(shape.classes, sizes[0]) if shape.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = leaky_relu(self.from_image(images), SLOPE, inplace=True)
        for block in self.blocks:
            maps = block(maps)
        maps = leaky_relu(self.last(minibatch_stddev(maps)), SLOPE, inplace=True)
        scores: Tensor = self.score(leaky_relu(self.hidden(flattened(maps)), SLOPE))
        if self.embedding is None:
            return scores
        direction = pixel_norm(self.embedding(labels))
        return (scores * direction).sum(1, keepdim=True) / math.sqrt(scores.shape[1])


class DownBlock(nn.Module):
    """(n, before, h, w) -> (n, after, h / 2, w / 2); sum of two branches over sqrt 2, so that the variance stays."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(before, before, 3)
        self.conv2 = EqualizedConv2d(before, after, 3, stride=2)
        self.shortcut = EqualizedConv2d(before, after, 1, gain=1.0)
        self.resample = Resample()

    def forward(self, maps: Tensor) -> Tensor:
        inner = leaky_relu(self.conv1(maps), SLOPE, inplace=True)
        inner = leaky_relu(self.conv2(self.resample.blur(inner, margin=2)), SLOPE, inplace=True)
        return (inner + self.shortcut(self.resample.down(maps))) / HE
