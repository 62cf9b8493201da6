"""The generator of Isola, Zhu, Zhou, Efros, "Image-to-image translation with conditional adversarial networks", CVPR
2017, arXiv:1611.07004, appendix 6.1.1: a U-Net (Ronneberger et al., arXiv:1505.04597) whose noise is dropout.

Legend: n samples, c channels, s image size, w width, h = w pixels of a level, k levels.
"""

import torch
from torch import Tensor, nn

from pipeline.core.noise import Noise
from pipeline.nets.initialization import initialize_dcgan
from pipeline.nets.layers import NormName, Upsampling, as_weights_lie, norm, refused_size, upsample

WIDENING = 8  # of the narrowest map over the width, at most
NOISY = 3  # innermost decoders that have dropout
MOST_LEVELS = 8  # as the paper has at 256 pixels


def default_levels(size: int) -> int:
    """Return how often images of a size can be halved, 8 times at most."""
    levels = 0
    while levels < MOST_LEVELS and size % 2 == 0:
        size, levels = size // 2, levels + 1
    return levels


class SkipTranslator(nn.Module):
    """(n, c, s, s) -> (n, c, s, s) in [-1, 1]: halvings and as many doublings, which see the maps of the way down too.

    Args:
        channels: c.
        size: s, a multiple of 2 ** levels.
        width: channels of the first level; each level has twice those before, up to 8 times.
        levels: halvings.
        dropout: chance of each number of the innermost decoders to be dropped.
        norm_name: normalization.
        upsampling: how the decoders double the resolution.

    Raises:
        ValueError: the size cannot be halved so often.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        width: int,
        levels: int,
        dropout: float,
        norm_name: NormName,
        upsampling: Upsampling,
    ) -> None:
        super().__init__()
        if size % 2:
            raise refused_size(size, lambda other: other % 2 == 0, "is odd")
        if size % 2**levels:
            what = f"cannot be halved {levels} times, as levels: {levels} does"
            raise refused_size(size, lambda other: other % 2**levels == 0, what)
        widths = [channels, *(width * min(2**level, WIDENING) for level in range(levels))]
        self.dropout = dropout
        # The first and the innermost map are not normalized; the innermost may be a single pixel.
        self.down = nn.ModuleList(
            _encoder(widths[k], widths[k + 1], "none" if k in (0, levels - 1) else norm_name, first=k == 0)
            for k in range(levels)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                upsample(upsampling, widths[k + 1] * (1 if k == levels - 1 else 2), widths[k]),
                norm(norm_name if k else "none", widths[k]),
            )
            for k in reversed(range(levels))
        )
        initialize_dcgan(self)

    def forward(self, images: Tensor, noise: Noise | None) -> Tensor:
        """Translate images.

        Args:
            images: (n, c, s, s).
            noise: what is dropped of each sample; None: nothing.

        Returns:
            (n, c, s, s) in [-1, 1].
        """
        maps = as_weights_lie(images, self)
        kept = []
        for encoder in self.down:
            maps = encoder(maps)
            kept.append(maps)
        kept.pop()  # the innermost
        for number, decoder in enumerate(self.up):
            maps = decoder(maps)
            if kept:
                if noise is not None and number < NOISY:
                    maps = self._dropped(maps, noise, number)
                maps = torch.cat((maps, kept.pop()), dim=1)
        return maps.tanh()

    def _dropped(self, maps: Tensor, noise: Noise, number: int) -> Tensor:
        """Drop numbers of the maps (n, c, h, w) and scale what stays, so that the mean stays."""
        if not self.dropout:
            return maps
        stays = noise.uniform(f"dropout {number}", *maps.shape[1:]) >= self.dropout
        return torch.where(stays, maps / (1 - self.dropout), torch.zeros((), dtype=maps.dtype, device=maps.device))


def _encoder(before: int, after: int, norm_name: NormName, *, first: bool) -> nn.Sequential:
    """(n, before, h, w) -> (n, after, h / 2, w / 2)."""
    active = [] if first else [nn.LeakyReLU(0.2)]  # not in place: a decoder sees its input too
    return nn.Sequential(*active, nn.Conv2d(before, after, 4, 2, 1), norm(norm_name, after))
