"""Layers that several networks share: norms, upsampling, ways to use a label, spectral normalization.

Legend: n samples, c channels, h = w = s pixels, z latent dimensions, f features, k classes.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from pipeline.core.precision import without_autocast
from pipeline.nets.thin import FEW, ThinConvTranspose2d

GROUP = 4  # channels of a group at least: with fewer, group norm is instance norm
LARGEST_GROUPS = 32  # groups at most (Wu, He, "Group normalization", arXiv:1803.08494)
LARGEST_BASE = 15  # pixels of a pyramid's smallest map at most
WARM_UP_ITERATIONS = 15  # power iterations before the first step, as in torch's own spectral norm

NormName = Literal["batch", "layer", "group", "instance", "none"]
Upsampling = Literal["transposed", "nearest", "pixelshuffle"]
Conditioning = Literal["projection", "concat"]


class GroupNorm(nn.GroupNorm):
    """Group norm that computes in float32 on a CPU, whatever it is given.

    torch's kernel for bfloat16 in channels-last memory goes through a group of a few channels number by number: it
    takes three to seven times as long as float32's (findings/torch-group-norm-slow-in-bfloat16.sh).
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> the same, in the precision of ``maps``."""
        if maps.dtype is torch.bfloat16 and maps.device.type == "cpu":
            return super().forward(maps.float()).to(maps.dtype)
        return super().forward(maps)


_NORMS: dict[NormName, Callable[[int, bool], nn.Module]] = {
    "batch": lambda channels, affine: nn.BatchNorm2d(channels, affine=affine),
    "layer": lambda channels, affine: nn.GroupNorm(1, channels, affine=affine),
    "group": lambda channels, affine: GroupNorm(groups(channels), channels, affine=affine),
    "instance": lambda channels, affine: nn.InstanceNorm2d(channels, affine=affine),
    "none": lambda channels, affine: nn.Identity(),
}


def norm(name: NormName, channels: int, *, affine: bool = True) -> nn.Module:
    """Build a normalization of (n, c, h, w); layer norm is over c, h and w."""
    return _NORMS[name](channels, affine)


def vector_norm(name: NormName, features: int) -> nn.Module:
    """Build a normalization of vectors (n, f).

    Args:
        name: which one.
        features: f.

    Returns:
        The layer.

    Raises:
        ValueError: instance norm, under which every number of a vector would be a group of its own.
    """
    if name == "instance":
        raise ValueError("instance norm needs images, not vectors; use layer")
    return nn.BatchNorm1d(features) if name == "batch" else norm(name, features)


def groups(channels: int) -> int:
    """Return how many groups group norm has: the largest power of two that leaves at least four channels to each."""
    count = LARGEST_GROUPS
    while channels % count or channels < GROUP * count:
        count //= 2
        if count <= 1:
            return 1
    return count


def _transposed(before: int, after: int, bias: bool) -> nn.Module:
    kind = ThinConvTranspose2d if after <= FEW else nn.ConvTranspose2d
    return kind(before, after, 4, 2, 1, bias=bias)


_UPSAMPLINGS: dict[Upsampling, Callable[[int, int, bool], nn.Module]] = {
    "transposed": _transposed,
    "nearest": lambda before, after, bias: nn.Sequential(
        nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, 1, 1, bias=bias)
    ),
    "pixelshuffle": lambda before, after, bias: nn.Sequential(
        nn.Conv2d(before, 4 * after, 3, 1, 1, bias=bias), nn.PixelShuffle(2)
    ),
}


def upsample(name: Upsampling, before: int, after: int, *, bias: bool = True) -> nn.Module:
    """Build a learned layer (n, before, h, w) -> (n, after, 2h, 2w).

    It is a transposed convolution of 4 x 4, or a convolution of 3 x 3 after nearest upsampling (Odena et al., 2016) or
    before PixelShuffle (Shi et al., arXiv:1609.05158).
    """
    return _UPSAMPLINGS[name](before, after, bias)


class LabelledNorm(nn.Module):
    """A norm whose scale and shift belong to the class (de Vries et al., arXiv:1707.00683).

    Maps (n, c, h, w), labels (n,) -> (n, c, h, w). The norm "none" leaves scale and shift alone; without classes it is
    the plain norm.
    """

    def __init__(self, name: NormName, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.norm = norm(name, channels, affine=not classes)
        self.modulation = nn.Embedding(classes, 2 * channels) if classes else None
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight[:, :channels], 1.0, 0.02)
            nn.init.zeros_(self.modulation.weight[:, channels:])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        images = self.norm(images)
        if self.modulation is None:
            return images
        scale, shift = self.modulation(labels)[:, :, None, None].chunk(2, dim=1)
        return images * scale + shift


class LabelledFeatures(nn.Module):
    """(n, ...), labels (n,) -> (n, ...): with classes, the sum with an embedding of the label.

    A linear layer of latents and label concatenated is this sum, but for one thing: the sum comes after the first
    norm. Before it the label's weights, which learn faster, crowd the latents out of the normalized variance, and
    every class collapses to one image.
    """

    def __init__(self, features: int, classes: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, features) if classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, 0.0, 0.3)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return features if self.embedding is None else features + self.embedding(labels).view(features.shape)


class LabelledImages(nn.Module):
    """(n, c, s, s), labels (n,) -> (n, channels, s, s): with classes, a learned map of the label comes last."""

    def __init__(self, channels: int, size: int, classes: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, size * size) if classes else None
        self.channels = channels + 1 if classes else channels

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is None:
            return images
        return torch.cat((images, self.embedding(labels).view(-1, 1, *images.shape[2:])), dim=1)


class Projection(nn.Embedding):
    """A label's direction among the features: a layer of the scores, so spectral norm applies to it."""


class Head(nn.Module):
    """(n, f), labels (n,) -> (n, outputs): a linear layer and, with classes, a projection.

    That is the inner product of the features with the label's embedding (Miyato, Koyama, "cGANs with projection
    discriminator", arXiv:1802.05637, eq. 3).
    """

    def __init__(self, features: int, outputs: int, classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.projection = Projection(classes, features) if classes else None

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        scores: Tensor = self.linear(features)
        if self.projection is None:
            return scores
        return scores + (self.projection(labels) * features).sum(1, keepdim=True)


class SpectralNorm(nn.Module):
    """W -> W / sigma(W), sigma the largest singular value of W as a matrix, outputs by all else.

    Miyato, Kataoka, Koyama, Yoshida, arXiv:1802.05957, algorithm 1: one power iteration per forward pass in
    training mode, from where the last one ended. Two things differ from torch's own: sigma is computed in
    float32 under autocast too, and in evaluation mode an iteration is made but not kept, so that a moving
    average of nets, whose W and u are averages, has the sigma of its own W.
    """

    u: Tensor

    def __init__(self, weight: Tensor, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("u", torch.randn(weight.shape[outputs]))
        for _ in range(WARM_UP_ITERATIONS):
            self.u.copy_(self._singular_vectors(self._matrix(weight))[0])

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight.device):
            matrix = self._matrix(weight)
            u, v = self._singular_vectors(matrix)
            if self.training:
                self.u.copy_(u)
            return weight / torch.dot(u, matrix.mv(v))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.outputs, 0).flatten(1)

    @torch.no_grad()
    def _singular_vectors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        v = normalize(matrix.t().mv(self.u), dim=0)
        return normalize(matrix.mv(v), dim=0), v


def add_spectral_norm(net: nn.Module) -> None:
    """Add spectral norm to every convolution, linear layer and projection; call it once the weights are drawn."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | Projection):
            outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight.detach(), outputs))


def as_weights_lie(images: Tensor, net: nn.Module) -> Tensor:
    """Return images (n, c, h, w) in the memory format of the net's convolutions, so that no layer has to mix two."""
    last = all(w.is_contiguous(memory_format=torch.channels_last) for w in net.parameters() if w.ndim == 4)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def flattened(maps: Tensor) -> Tensor:
    """Return maps (n, c, h, w) as vectors (n, c * h * w); their gradient comes back in the maps' own memory format.

    ``flatten`` alone gives the layers before it a gradient in another format than theirs, and each has to mix the two.
    """
    if not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last):
        result: Tensor = _Laid.apply(maps, torch.contiguous_format, torch.channels_last)
        return result.flatten(1)
    return maps.flatten(1)


class _Laid(torch.autograd.Function):
    """Images in one memory format, and their gradient in another."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, there: torch.memory_format, back: torch.memory_format) -> Tensor:
        ctx.there, ctx.back = there, back
        return images.contiguous(memory_format=there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Laid.apply(gradients[0], ctx.back, ctx.there), None, None


def refused_size(size: int, fits: Callable[[int], bool], what: str) -> ValueError:
    """Return the error for an image size that does not fit, with the nearest sizes that do.

    Args:
        size: of the data's images.
        fits: whether a size would do; some size up to twice this one does.
        what: follows the size in the message, such as "is not a multiple of 4".

    Returns:
        The error, to be raised.
    """
    below = next((other for other in range(size - 1, 7, -1) if fits(other)), None)
    above = next(other for other in range(size + 1, 2 * size + 9) if fits(other))
    return ValueError(f"data.size: {size} {what}; set it to {f'{below} or ' if below else ''}{above}")


def doublings(size: int) -> tuple[int, int]:
    """Return where a convolutional pyramid starts and how often it doubles.

    Args:
        size: of the image.

    Returns:
        (base, k) with size = base * 2**k, k at least 1 and base in 4 .. 7, or odd and at most 15.

    Raises:
        ValueError: there is no such base, for example for 33 or 100.
    """
    pyramid = _pyramid(size)
    if pyramid is None:
        what = f"is not 4, 5, 6, 7, 9, 11, 13 or {LARGEST_BASE} times a power of two"
        raise refused_size(size, lambda other: _pyramid(other) is not None, what)
    return pyramid


def _pyramid(size: int) -> tuple[int, int] | None:
    base, steps = size, 0
    while base > 7 and base % 2 == 0:
        base, steps = base // 2, steps + 1
    return (base, steps) if 4 <= base <= LARGEST_BASE and steps else None


def widths(steps: int, width: int, max_width: int) -> list[int]:
    """Return the channels of levels 0 to ``steps``: ``width`` at the last, doubling before, up to max_width."""
    return [min(width * 2 ** (steps - level), max_width) for level in range(steps + 1)]
