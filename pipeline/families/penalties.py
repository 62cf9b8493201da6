"""Penalties on a critic's gradient with respect to its input, per sample, then averaged."""

import torch
from torch import Tensor, nn


def input_gradient(critic: nn.Module, images: Tensor) -> Tensor:
    """(n, c * h * w): each sample's own gradient of its score, differentiable again.

    Right only if a sample's score depends on that sample alone: no batch norm in the critic.
    """
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """mean of (|grad critic(x)|_2 - 1)^2 at x = e real + (1 - e) fake, one e per sample (WGAN-GP, eq. 3).

    epsilon: (n, 1, 1, 1) in [0, 1]. The norm's gradient is finite where the critic is flat.
    """
    between = torch.lerp(fake, real, epsilon)
    norms = (input_gradient(critic, between).square().sum(1) + 1e-12).sqrt()
    return (norms - 1.0).square().mean()
