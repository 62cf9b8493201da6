"""InceptionV3 of the original FID: Heusel et al., NeurIPS 2017, arXiv:1706.08500; IS: Salimans et al.,
NeurIPS 2016, arXiv:1606.03498. torch-fidelity's port ('inception-v3-compat': TensorFlow 1's resize
and graph), so that scores compare with published ones. 2,048 pooled features, 1,008 unbiased logits.

The weights (95 MB) are downloaded once into torch.hub's cache, or read from ``evaluate.weights``.
Where they can't be had this fails: another network's FID is another metric.
"""

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluate.extractor import Extractor, published

NAME = "inception"
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RESIZE = "299x299 bilinear of TensorFlow 1, float32 (torch-fidelity inception-v3-compat)"


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
    net = net.to(device).to(memory_format=torch.channels_last)

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        pooled, logits = net(images)
        return pooled, logits

    return Extractor(name=NAME, weights_sha256=SHA256, resize=RESIZE, network=network, device=device)
