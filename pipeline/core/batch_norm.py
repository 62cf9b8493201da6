"""Batch normalization over the global batch: with it, training does not depend on how many processes share it.

torch's SyncBatchNorm needs a GPU and has no second derivative, which penalties on gradients take.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.world import World


class BatchStatistics:
    """A module whose output depends on its batch's mean and variance over the ranks of ``world``."""

    world = World()

    def moments(self, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return mean and variance (without Bessel's correction) over ``axes`` of all ranks' x, of one size on each.

        Collective, and differentiable twice.
        """
        variance, mean = torch.var_mean(x, tuple(axes), correction=0)
        if self.world.size == 1:
            return mean, variance
        shared, variance, square = self.world.mean(torch.stack((mean, variance, mean.square())))
        return shared, variance + (square - shared.square()).clamp(min=0)  # within the ranks, and between them


class SynchronizedBatchNorm(_BatchNorm, BatchStatistics):
    """Batch norm of (n, c, ...) over the whole world, in float32, with statistics as torch keeps them."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias, self.training = norm.weight, norm.bias, norm.training
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        mean, variance = self.moments(x, [axis for axis in range(x.ndim) if axis != 1])
        self._update_running_statistics(mean.detach(), variance.detach(), self.world.size * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = self.bias - mean * scale if self.affine else -mean * scale
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)  # one pass over the images

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (count / (count - 1)), weight)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions; each of torch's own classes accepts one."""


def synchronize(nets: nn.Module, world: World) -> None:
    """Make every batch norm inside ``nets`` normalize over ``world``; in a world of one nothing changes.

    Replaces torch's batch norms by modules that hold the same parameters and buffers under the same names.
    """
    if world.size == 1:
        return
    for parent in list(nets.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SynchronizedBatchNorm(child))
    for module in nets.modules():
        if isinstance(module, BatchStatistics):
            module.world = world
