"""EfficientNet-Lite0 on ImageNet (pipeline/nets/efficientnet.py): 1,280 pooled features, 1,000 logits; its weights come
with a package, so it needs no network.

Resized to 96 x 96, not to the 224 of its training: 5 times faster on a CPU, and part of the
protocol's name. Scores compare with each other under this protocol, not with published FIDs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.evaluate.extractor import Extractor
from pipeline.nets.efficientnet import MEAN, SCALE, SHA256, fold, pretrained

NAME = "efficientnet_lite0"
SIZE = 96
RESIZE = f"{SIZE}x{SIZE} bilinear antialias float32"


class Network(nn.Module):
    """The network on raw images: uint8 (n, 3, h, w) to pooled (n, 1280) and logits (n, 1000)."""

    def __init__(self, net: Any, size: int = SIZE) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        resized = interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        features: Tensor = self.net.extract_features(resized.sub_(MEAN).div_(SCALE))
        pooled = features.mean((2, 3))
        return pooled, self.net._fc(pooled)


def load(weights: str | None, device: torch.device) -> Extractor:
    """Return the extractor; its weights come with the package, so ``weights`` is not used."""
    net = pretrained(SIZE)
    fold(net)
    network = Network(net).to(device).to(memory_format=torch.channels_last)
    return Extractor(name=NAME, weights_sha256=SHA256, resize=RESIZE, network=network, device=device)
