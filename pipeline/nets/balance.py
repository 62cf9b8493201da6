"""The adaptive weight of VQGAN (Esser, Rombach, Ommer, arXiv:2012.09841, eq. 7), the same on every rank."""

import torch
from torch import Tensor, nn

from pipeline.core.batch_norm import BatchStatistics

DELTA = 1e-6  # the paper's: added to the norm that divides


class AdaptiveWeight(nn.Module, BatchStatistics):
    """The weight of a second loss at which it moves a layer as strongly as the first does.

        lambda = |grad_w first| / (|grad_w second| + 1e-6), at most ``largest``

    w are the layer's weights, and both losses means over the samples. Each gradient is averaged over the ranks
    before its norm is taken: the norm is that of the global batch, which no average of the ranks' norms is. It has
    neither parameters nor buffers.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Return lambda, 0-d and without gradient. Collective.

        Args:
            first: the loss that sets the measure, 0-d.
            second: the loss to be weighted, 0-d.
            weights: of the layer, on which both depend; its gradient and the losses' graphs stay as they are.

        Returns:
            The weight, in [0, largest].
        """
        gradients = [torch.autograd.grad(loss, weights, retain_graph=True)[0].flatten() for loss in (first, second)]
        of_first, of_second = self.world.mean(torch.stack(gradients).float()).norm(dim=1)
        return (of_first / (of_second + DELTA)).clamp(max=self.largest)
