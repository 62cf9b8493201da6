"""Constraints on a critic: penalties on its gradient with respect to its input, and clipped weights.

Every penalty is computed per sample and then averaged, in float32 at least, whatever the precision of
the training. It is right only if a sample's score depends on that sample alone, so a method with a
penalty calls ``refuse_batch_norm``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.precision import without_autocast

Critic = Callable[[Tensor], Tensor]  # (n, c, h, w) -> (n, 1)

_ROOT = 1e-12  # under a norm's root: its gradient is finite where the critic is flat


def input_gradient(critic: Critic, images: Tensor) -> Tensor:
    """Return each sample's own gradient of its score, (n, c * h * w), differentiable again; never in half precision."""
    images = images.detach().to(torch.promote_types(images.dtype, torch.float32)).requires_grad_(True)
    with without_autocast(images.device):
        (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """Return the mean of (|grad critic(x)|_2 - 1)^2 at x = e real + (1 - e) fake, one e per sample.

    Gulrajani et al., arXiv:1704.00028, eq. 3. epsilon: (n, 1, 1, 1) in [0, 1].
    """
    between = torch.lerp(fake, real, epsilon.to(fake.dtype))
    norms = (input_gradient(critic, between).square().sum(1) + _ROOT).sqrt()
    return (norms - 1.0).square().mean()


def r1_penalty(critic: Critic, images: Tensor) -> Tensor:
    """Return the mean of |grad critic(x)|_2^2 over the samples x; of real ones it is R1, of generated ones R2.

    Mescheder et al., arXiv:1801.04406, eq. 9, there times gamma / 2.
    """
    return input_gradient(critic, images).square().sum(1).mean()


def perturbed(images: Tensor, noise: Tensor) -> Tensor:
    """Return x + u s / 2, s the standard deviation of the image's pixels: how far DRAGAN looks from the data.

    noise u: as images, in [0, 1]. The authors' code takes one deviation for the whole batch; here each
    image has its own, so that no sample's penalty depends on its neighbours.
    """
    return images + 0.5 * images.std((1, 2, 3), correction=0, keepdim=True) * noise


def clip_weights(net: nn.Module, bound: float) -> None:
    """Clip every parameter to [-bound, bound], in place (WGAN, arXiv:1701.07875, algorithm 1)."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.clamp_(-bound, bound)


def refuse_batch_norm(method: Any) -> None:
    """Raise ValueError if the critic's norm would tie the samples of a batch together."""
    if method.critic_norm == "batch":
        raise ValueError("critic_norm: batch norm ties samples together, but the penalty is per sample; use layer")
