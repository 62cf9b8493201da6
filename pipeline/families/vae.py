"""What variational autoencoders share: the divergence to the prior and the pixels' likelihood."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp log_variance) || N(0, I)) in nats: (n, z), (n, z) -> (n,); never negative."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)


def discretized_logistic(images: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(images) in nats of 256-level pixels in [-1, 1] under a logistic, integrated over each level's bin.

    Kingma et al., arXiv:1606.04934, eq. 15; the outermost bins reach to infinity, so that the 256
    probabilities sum to one. images, mean: (n, c, h, w); log_scale: broadcastable; -> (n,).
    """
    inverse, half = torch.exp(-log_scale), 1.0 / 255.0
    upper, lower = (images - mean + half) * inverse, (images - mean - half) * inverse
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), stable far out in the tails
    width = 2 * half * inverse
    inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
    log_probability = torch.where(
        images < -1 + half, logsigmoid(upper), torch.where(images > 1 - half, -softplus(lower), inner)
    )
    return log_probability.flatten(1).sum(1)


def bits_per_dimension(nats: Tensor, dimensions: int) -> Tensor:
    """Nats per image to bits per pixel and channel."""
    return nats / (math.log(2.0) * dimensions)
