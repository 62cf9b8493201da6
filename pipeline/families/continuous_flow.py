"""What continuous normalizing flows share: a velocity field over time, sampling, encoding and the exact likelihood.

Images v are dequantized as those of the other flows (flow.py) and scaled, x = 2 v - 1. A net v(x, t, y) moves latents
x_0 ~ N(0, I) to images x_1 along dx/dt = v (Chen et al., "Neural ordinary differential equations", arXiv:1806.07366):

    log p(x_1) = log N(x_0; 0, I) - integral over t of div v(x_t, t)      the instantaneous change of variables
    div v  ~  e' (dv/dx) e,   E e e' = I                                  unbiased: Hutchinson's estimator, FFJORD
                                                                          (Grathwohl et al., arXiv:1810.01367)
    guided:  v(x, t, none) + w (v(x, t, y) - v(x, t, none))               classifier-free guidance for samples
                                                                          (Ho, Salimans, arXiv:2207.12598)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pipeline.config import Count, NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Nets
from pipeline.core.noise import Noise
from pipeline.families.flow import dequantize, normal_log_density, to_images
from pipeline.families.ode import Field, Solver, divergence, integrate
from pipeline.families.optimization import Optimized
from pipeline.families.vae import bits_per_dimension
from pipeline.nets.layers import refused_size
from pipeline.nets.unet import UNet, default_levels


@dataclass(frozen=True, kw_only=True)
class ContinuousFlow(Optimized):
    """A U-Net that is a velocity over time.

    sampling_steps, solver and guidance belong to sampling: they change no weight.

    Attributes:
        width: channels of the U-Net's first level, up to twice as many at each further one.
        max_width: channels at most.
        levels: resolutions; null: 3, or as many as leave 4 pixels a side.
        blocks: residual blocks of a level.
        attention: maps of so many pixels a side, and smaller ones, have self-attention; 0: none.
        class_conditional: where the data has classes, the net sees them.
        drop_labels: share of the samples that are trained on without their class.
        guidance: w of samples; 1: the class's own model; 0: that of all classes; above 1: more typical of the class.
        solver: of the path from latents to images: euler, midpoint, heun or rk4, or dopri5, which chooses its steps. Of
            the likelihood too, and of encoding and decoding; but there midpoint stands for euler and heun.
        sampling_steps: of a sample, smaller towards the image; of an exported dopri5 those of rk4.
        likelihood_steps: likewise of encoding, of decoding and of the likelihood.
        tolerance: of dopri5.
    """

    sampled: ClassVar[tuple[str, ...]] = ("velocity",)
    encodes: ClassVar[tuple[str, ...]] = ("latents", "log_likelihood")
    decodes: ClassVar[tuple[str, ...]] = ("latents",)

    width: Positive = 32
    max_width: Positive = 128
    levels: Positive | None = None
    blocks: Positive = 1
    attention: Count = 8
    class_conditional: bool = True
    drop_labels: Unit = 0.1
    guidance: NonNegative = 1.0
    solver: Solver = "midpoint"
    sampling_steps: Positive = 10
    likelihood_steps: Positive = 20
    tolerance: PositiveFloat = 1e-5

    def net(self, spec: ImageSpec) -> UNet:
        """Build a velocity for images of a shape; ValueError if they cannot be halved ``levels`` - 1 times."""
        levels = self.levels or default_levels(spec.size)
        if spec.size % 2 ** (levels - 1):
            what = f"cannot be halved {levels - 1} times, as levels: {levels} does"
            raise refused_size(spec.size, lambda other: other % 2 ** (levels - 1) == 0, what)
        shape = {"width": self.width, "max_width": self.max_width, "levels": levels, "blocks": self.blocks}
        classes = spec.classes if self.class_conditional else 0
        return UNet(channels=spec.channels, size=spec.size, classes=classes, attention=self.attention, **shape)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        latents = like.noise.normal("latent", math.prod(velocity_of(nets).shape))
        return self.images_of(nets, latents, like.labels)

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"bits_per_dim": self.bits_per_dim(nets, batch)}

    def bits_per_dim(self, nets: Nets, batch: Batch) -> Tensor:
        """Return bits per dimension (n,) of the batch's images with its own dequantization noise and probes."""
        latents, log_density = self.latents_of(nets, batch)
        return bits_per_dimension(-log_density, latents.shape[1]) + 8.0

    def overflow_remedy(self) -> str:
        return f"Lower guidance (now {self.guidance:g}), take more sampling_steps, or lower its learning rate."

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return the latents, and the log-likelihood in nats of the 256-level image: -d log(2) bits per dimension."""
        latents, log_density = self.latents_of(nets, batch)
        return {"latents": latents, "log_likelihood": log_density - latents.shape[1] * math.log(256.0)}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the images of latents by the model itself: without guidance, by the steps of ``encode``."""
        net = velocity_of(nets)
        x = encoded["latents"].unflatten(1, net.shape)
        x = self._follow(of_label(net, labels), x, moments(self.likelihood_steps), self._of_likelihood)
        return to_images(0.5 + 0.5 * x)

    def images_of(self, nets: Nets, latents: Tensor, labels: Tensor) -> Tensor:
        """Turn latents (n, d) into images in [-1, 1] as samples are made, with guidance."""
        net = velocity_of(nets)
        field, times = self.guided(net, labels), moments(self.sampling_steps)
        x = self._follow(field, latents.unflatten(1, net.shape), times, self.solver)
        return to_images(0.5 + 0.5 * x)

    def latents_of(self, nets: Nets, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return latents (n, d) and the log-density (n,) of the batch's dequantized images in [0, 1], in nats."""
        net = velocity_of(nets)
        x = scaled(batch.images, batch.noise).flatten(1)
        field, dimensions = of_label(net, batch.labels), x.shape[1]
        probe = (2 * batch.noise.integers("probe", 2, dimensions) - 1).to(x.dtype)

        def flat(x: Tensor, time: Tensor) -> Tensor:
            return field(x.unflatten(1, net.shape), time).flatten(1)

        def with_divergence(state: Tensor, time: Tensor) -> Tensor:
            velocity, spread = divergence(flat, state[:, :-1], time, probe)
            return torch.cat((velocity, spread[:, None]), dim=1)

        state = torch.cat((x, torch.zeros_like(x[:, :1])), dim=1)
        state = self._follow(with_divergence, state, moments(self.likelihood_steps)[::-1], self._of_likelihood)
        latents = state[:, :-1]
        return latents, normal_log_density(latents) + state[:, -1] + dimensions * math.log(2.0)

    def straightness(self, nets: Nets, latents: Tensor, labels: Tensor) -> Tensor:
        """Return E_t |(x_1 - x_0) - v(x_t, t)|^2 / d of the paths of latents (n, d): (n,); 0 if they are straight.

        S(Z) of Liu, Gong, Liu, arXiv:2209.03003, section 2.2, integrated over the times of a sample's steps.
        """
        net, times = velocity_of(nets), moments(self.sampling_steps)
        field = self.guided(net, labels)
        path = [latents.unflatten(1, net.shape)]
        for pair in pairwise(times):
            path.append(self._follow(field, path[-1], list(pair), self.solver))
        line = path[-1] - path[0]
        deviations = [
            (line - field(x, torch.tensor(time, device=x.device))).square().flatten(1).mean(1)
            for x, time in zip(path, times, strict=True)
        ]
        return torch.trapezoid(torch.stack(deviations), torch.tensor(times, device=latents.device), dim=0)

    def guided(self, net: UNet, labels: Tensor, guidance: float | None = None) -> Field:
        """Return the field of samples of these labels (n,), with the params' guidance or another."""
        weight = self.guidance if guidance is None else guidance
        if not net.classes or weight == 1.0:
            return of_label(net, labels)
        none = torch.full_like(labels, net.classes)
        if weight == 0.0:
            return of_label(net, none)
        given, free = of_label(net, labels), of_label(net, none)
        # One after the other, so that no more images than the caller's go through the net at once.
        return lambda x, time: torch.lerp(free(x, time), given(x, time), weight)

    def seen_labels(self, net: UNet, batch: Batch) -> Tensor:
        """Return the labels (n,) to train on: the share ``drop_labels`` of them stands for none."""
        dropped = batch.noise.uniform("drop label") < self.drop_labels
        return torch.where(dropped, net.classes, batch.labels)

    @property
    def _of_likelihood(self) -> Solver:
        """The solver of densities: not euler or heun, for which the step next to the image counts as volumes change at
        the image itself, where they do so fastest: 20 steps of euler gave MNIST -0.1 bits per dimension, not 1.8.
        """
        return "midpoint" if self.solver in ("euler", "heun") else self.solver

    def _follow(self, field: Field, x: Tensor, times: list[float], solver: Solver) -> Tensor:
        return integrate(field, x, times, solver, self.tolerance)


def moments(steps: int) -> list[float]:
    """Return the times of so many steps from 0 to 1: 1 - (1 - k / steps)^2.

    At t the path's values are still spread by 1 - t: what is as even as a black background comes
    together in the last moments, and equal steps leave noise on it.
    """
    return [1 - (1 - k / steps) ** 2 for k in range(steps + 1)]


def scaled(images: Tensor, noise: Noise) -> Tensor:
    """Dequantize images (n, c, h, w) in [-1, 1], and scale them to [-1, 1] again."""
    return 2 * dequantize(images, noise) - 1


def velocity_of(nets: Nets) -> UNet:
    """Return the net "velocity", with its type."""
    return cast(UNet, nets["velocity"])


def of_label(net: nn.Module, labels: Tensor) -> Field:
    """Return a net's field of samples of these labels (n,)."""
    return lambda x, time: net(x, time.expand(x.shape[0]), labels)
