"""CLIP's image encoder, ViT-B/32: Radford et al., ICML 2021, arXiv:2103.00020; for FID: Kynkaanniemi et al., "The role
of ImageNet classes in Frechet Inception distance", ICLR 2023, arXiv:2203.06026. torch-fidelity's port. 512 features; no
classes, so that its Inception Score is 1.

The weights (354 MB) are downloaded once into torch.hub's cache, or read from ``evaluate.weights``.
"""

import warnings

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluate.extractor import Extractor, published

NAME = "clip"
SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
URL = f"https://openaipublic.azureedge.net/clip/models/{SHA256}/ViT-B-32.pt"
RESIZE = "224x224 bilinear of TensorFlow 1, float32 (torch-fidelity clip-vit-b-32)"


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
        from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
    except ImportError as error:
        raise UserError(f"extractor '{NAME}': {error}. Install the project's requirements.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the published file is a TorchScript archive
        net = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(path)).eval().to(device)

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        (pooled,) = net(images)
        return pooled, pooled.new_zeros(len(pooled), 1)

    return Extractor(name=NAME, weights_sha256=SHA256, resize=RESIZE, network=network, device=device)
