"""Directions of a latent space in which the image changes most.

With J the Jacobian of the image by the latents z, a small step u changes the image by u' J'J u, squared. The
eigenvectors of the mean of J'J over the prior, largest eigenvalue first, are therefore the directions of greatest mean
change (Wang, Ponce, "A geometric analysis of deep generative image models and its applications", ICLR 2021,
arXiv:2101.06006, who find that J'J hardly depends on z). J'v of a random v with E vv' = I has E J'vv'J = E J'J, so one
backward pass per latent estimates it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.noise import Noise
from pipeline.inference.onnx import Draw, LatentSampler

POINTS = 512  # latents, each with one random v
DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Where a sampler's images change.

    Attributes:
        of: the input that the directions are of; "" if there is none to walk along.
        vectors: (k, d) unit vectors, the one of greatest change first.
        shares: (k,) of the mean squared change, in [0, 1].
        sensitivity: (d,), the share of each single dimension; sums to 1.
    """

    of: str
    vectors: Tensor
    shares: Tensor
    sensitivity: Tensor


def find_directions(sampler: LatentSampler, most: int, at_a_time: int, points: int = POINTS) -> Directions:
    """Estimate the directions of greatest change of the first continuous input, at latents of seed 0.

    Args:
        sampler: of a trained model, on the CPU.
        most: directions at most.
        at_a_time: latents that the nets take at once.
        points: latents in all.

    Returns:
        At most ``most`` directions; none where the image does not depend smoothly on any input, as on that which
        chooses codes.
    """
    draw = next((draw for draw in sampler.draws if draw.kind != "integers"), None)
    gradients = None if draw is None else _gradients(sampler, draw, at_a_time, points)
    if draw is None or gradients is None:
        return Directions(of="", vectors=torch.zeros(0, 0), shares=torch.zeros(0), sensitivity=torch.zeros(0))
    # For the latents that they are found by, directions have more of the change than for others, the more so the more
    # dimensions there are. So one half finds them, and the other half measures their shares.
    finding, measuring = gradients.chunk(2)
    vectors = torch.linalg.svd(finding, full_matrices=False)[2][:most]
    shares = (measuring @ vectors.T).square().sum(0) / measuring.square().sum()
    order = shares.argsort(descending=True)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return Directions(
        of=draw.name,
        vectors=(vectors * largest.sign())[order],  # an eigenvector has no sign of its own
        shares=shares[order],
        sensitivity=gradients.square().sum(0) / gradients.square().sum(),
    )


def as_json(directions: Directions) -> Mapping[str, object]:
    """Return the directions as JSON holds them, rounded."""

    def rounded(values: Tensor) -> list[float]:
        return [round(value, DIGITS) for value in values.tolist()]

    return {
        "of": directions.of,
        "vectors": [rounded(vector) for vector in directions.vectors],
        "shares": rounded(directions.shares),
        "sensitivity": rounded(directions.sensitivity),
    }


def _gradients(sampler: LatentSampler, draw: Draw, at_a_time: int, points: int) -> Tensor | None:
    """Return J'v (points, d) of an input's numbers; None where the image does not depend smoothly on them."""
    numbers = {name: given for name, (_, given) in sampler.drawn(points).items()}
    labels, shape = sampler.labels(points), (sampler.spec.channels, sampler.spec.size, sampler.spec.size)
    found = []
    for rows in torch.arange(points).split(at_a_time):
        given = {name: values[rows].clone() for name, values in numbers.items()}
        walked = given[draw.name].requires_grad_()
        further = (labels[rows],) if sampler.conditional else ()
        with torch.enable_grad():
            images = sampler(*(given[other.name] for other in sampler.draws), *further)
            if not images.requires_grad:
                return None
            projected = (images * Noise(0, rows).normal("projection", *shape)).sum()
            (gradient,) = torch.autograd.grad(projected, walked, allow_unused=True)
        if gradient is None:
            return None
        found.append(gradient.flatten(1))
    gradients = torch.cat(found)
    return gradients if bool(torch.isfinite(gradients).all()) and bool(gradients.any()) else None
