"""A perceptual distance: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a
perceptual metric" (LPIPS), CVPR 2018, arXiv:1801.03924, without the weights that it learned from people's judgements.

    d(x, y) = sum over stages of  mean over places of  |f(x) / |f(x)| - f(y) / |f(y)||^2

f are a stage's features at a place, a vector over channels. The network is EfficientNet-Lite0 instead of the paper's
(VGG, AlexNet, SqueezeNet), and a stage's features are those that it hands to the next smaller resolution.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from pipeline.nets.efficientnet import MEAN, SCALE, fold, pretrained

STAGES = ((0, 1), (1, 3), (3, 5))  # blocks, up to features of 1/2, 1/4 and 1/8 of the images' size
LEAST = 32  # pixels a side; smaller images are enlarged, as the last features would be a single place


class PerceptualDistance(nn.Module):
    """The distance of images to others, in features of a fixed network.

    Args:
        size: pixels a side of the images.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = max(size, LEAST)
        net = pretrained(self.size)
        fold(net)
        self.stem = nn.Sequential(net._conv_stem, net._swish)
        self.stages = nn.ModuleList(nn.Sequential(*net._blocks[begin:end]) for begin, end in STAGES)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the distances (n,) of images to targets, both (n, 1 or 3, h, w) in [-1, 1]; >= 0, 0 if they are equal.

        Only the images get a gradient.
        """
        with torch.no_grad():
            known = self._features(targets)
        pairs = zip(self._features(images), known, strict=True)
        return torch.stack([(found - other).square().sum(1).mean((1, 2)) for found, other in pairs]).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return each stage's features (n, d, h / 2 .., w / 2 ..), float32 of length one over d."""
        if images.shape[-1] != self.size:
            images = interpolate(images, (self.size, self.size), mode="bilinear")
        pixels = (images + 1.0) * 127.5
        seen = self.stem(((pixels - MEAN) / SCALE).expand(-1, 3, -1, -1))
        found = []
        for stage in self.stages:
            seen = stage(seen)
            found.append(normalize(seen.float()))
        return found
