"""InceptionV3 of the original FID: Heusel et al., NeurIPS 2017, arXiv:1706.08500; IS: Salimans et al.,
NeurIPS 2016, arXiv:1606.03498. torch-fidelity's port ('inception-v3-compat': TensorFlow 1's resize
and graph), so that scores compare with published ones. 2,048 pooled features, 1,008 unbiased logits.

The weights (95 MB) are downloaded once into torch.hub's cache, or read from ``evaluate.weights``.
Where they can't be had this fails: another network's FID is another metric.

Here it is the same function in an order that costs less (bench/evaluate.py): batch normalization multiplied into the
convolutions, activations as channels_last, the resize along rows before that along columns, and averages over 3 x 3
pixels after the 1 x 1 convolution behind them, which has fewer channels to average: both are linear.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import UserError
from pipeline.evaluate.extractor import Extractor, published

NAME = "inception"
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RESIZE = "299x299 bilinear of TensorFlow 1, float32 (torch-fidelity inception-v3-compat)"

SIZE = 299
BEFORE = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
"""torch-fidelity's names of the parts, in order."""
CHAINS = {
    "InceptionA": ("branch1x1", "branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"),
    "InceptionC": (
        "branch1x1",
        "branch7x7_1 branch7x7_2 branch7x7_3",
        "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5",
    ),
}
"""The convolutions of each branch of the blocks that end in one with an average, which comes last."""


class Network(nn.Module):
    """The network on raw images: (n, 3, h, w) in 0..255 to pooled (n, 2048) and logits (n, 1008).

    Args:
        net: torch-fidelity's, in evaluation mode; its parts are taken over and changed.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        for module in net.modules():
            if hasattr(module, "bn"):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        blocks = [getattr(net, f"Mixed_{name}") for name in MIXED]
        blocks = [_Averaging(block) if type(block).__name__ in CHAINS else block for block in blocks]
        self.body = nn.Sequential(*(getattr(net, name) for name in BEFORE), *blocks)
        self.fc = net.fc

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = resized(images.float(), SIZE).sub_(128).div_(128)
        pooled = self.body(scaled.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return pooled, pooled @ self.fc.weight.T


class _Averaging(nn.Module):
    """A block of branches, of which the last one averages."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        chains = [chain.split() for chain in CHAINS[type(block).__name__]]
        self.branches = nn.ModuleList(nn.Sequential(*(getattr(block, name) for name in chain)) for chain in chains)
        self.convolution = block.branch_pool.conv

    def forward(self, x: Tensor) -> Tensor:
        averaged = avg_pool2d(self.convolution(x), kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([*(branch(x) for branch in self.branches), relu(averaged, inplace=True)], 1)


def resized(images: Tensor, size: int) -> Tensor:
    """Resize as TensorFlow 1 does: bilinear, with the first pixels' corners aligned. To the bit as torch-fidelity.

    Args:
        images: (n, c, h, w) float32.
        size: height and width of the result.

    Returns:
        (n, c, size, size) float32.
    """

    def blend(x: Tensor, dimension: int) -> Tensor:
        last = x.shape[dimension] - 1
        place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor((last + 1) / size)
        below = place.long()
        shape = [-1 if axis == dimension else 1 for axis in range(4)]
        low, high = x.index_select(dimension, below), x.index_select(dimension, (below + 1).clamp_max(last))
        return high.sub_(low).mul_((place - below).view(shape)).add_(low)

    return blend(blend(images, 3), 2)


def load(weights: str | None, device: torch.device) -> Extractor:
    """Return the extractor.

    Args:
        weights: the file's path; None: the one in torch.hub's cache, which is downloaded if absent.
        device: where it computes.

    Returns:
        The extractor, its weights checked by hash.

    Raises:
        UserError: the weights can't be downloaded or are not the published ones.
    """
    path = published(NAME, weights, URL, SHA256)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(f"extractor '{NAME}': {error}. Install the project's requirements.") from error
    # torch-fidelity unpickles the file without weights_only; its hash has just been checked.
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))
    network = Network(net).to(device).to(memory_format=torch.channels_last)
    return Extractor(name=NAME, weights_sha256=SHA256, resize=RESIZE, network=network, device=device)
