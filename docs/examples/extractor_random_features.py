"""A network with random weights: its features tell images apart by texture and layout, for domains in which features
made for photographs say little; see Naeem et al., ICML 2020, arXiv:2002.09797, section 3.4. 256 pooled features.
"""

import hashlib
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.core.noise import Noise
from pipeline.evaluate.extractor import Extractor

NAME = "random_features"
SIZE = 32
RESIZE = f"{SIZE}x{SIZE} bilinear antialias float32"
WIDTHS = (3, 64, 128, 256)


class Network(nn.Module):
    """uint8 (n, 3, h, w) to pooled (n, 256), and logits (n, 1) of one class: it knows no others."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(WIDTHS)
        )
        noise = Noise(seed=0, ids=torch.arange(1))  # the same numbers everywhere
        for number, layer in enumerate(self.layers):
            bound = (6 / layer.weight[0].numel()) ** 0.5  # of He et al., ICCV 2015, for ReLU
            layer.weight.data = bound * (2 * noise.uniform(f"layer {number}", *layer.weight.shape)[0] - 1)
            layer.bias.data.zero_()
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = interpolate(images.float(), (SIZE, SIZE), mode="bilinear", antialias=True) / 127.5 - 1
        for layer in self.layers:
            x = layer(x).relu()
        pooled = x.mean((2, 3))
        return pooled, pooled.new_zeros(len(pooled), 1)


def load(weights: str | None, device: torch.device) -> Extractor:
    """Return the extractor; it has no weights file, so ``weights`` is not used."""
    network = Network()
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in network.state_dict().values())).hexdigest()
    return Extractor(name=NAME, weights_sha256=digest, resize=RESIZE, network=network.to(device), device=device)
