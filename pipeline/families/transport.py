"""Optimal transport within a batch: which noise goes to which image."""

import torch
from torch import Tensor

from pipeline.core.world import World


def coupled(noise: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the noise in the order in which the sum of squared distances to the images is least.

    Noise changes places with that of the same label alone, over the batches of all ranks. Collective: it gathers them.

    Args:
        noise: (n, ...).
        images: (n, ...) of the same shape.
        labels: (n,).

    Returns:
        (n, ...), this rank's part of the permuted noise.
    """
    if noise.is_meta:  # a rehearsal: there are no numbers to compare
        return noise
    world = World.current(noise.device)
    everywhere = world.gather(noise)
    order = best_order(everywhere, world.gather(images), world.gather(labels))
    n = noise.shape[0]
    return everywhere[order[world.rank * n : (world.rank + 1) * n]]


def best_order(noise: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the permutation p (n,) int64 within labels for which sum |images_i - noise_p(i)|^2 is least."""
    from scipy.optimize import linear_sum_assignment

    # |a - b|^2 = |a|^2 + |b|^2 - 2 a'b, and over a permutation the sum of the squares is the same for all.
    gain = (images.flatten(1) @ noise.flatten(1).T).double().cpu()
    order = torch.arange(len(gain))
    for label in labels.unique().cpu():
        rows = (labels.cpu() == label).nonzero().flatten()
        _, chosen = linear_sum_assignment(gain[rows][:, rows].numpy(), maximize=True)
        order[rows] = rows[torch.from_numpy(chosen)]
    return order.to(noise.device)
