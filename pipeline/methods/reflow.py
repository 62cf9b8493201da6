"""Reflow: Liu, Gong, Liu, "Flow straight and fast: learning to generate and transfer data with rectified flow", ICLR
2023, arXiv:2209.03003.

    pairs:  x_0 ~ N(0, I),   x_1 = where the trained velocity, the teacher, takes x_0
    loss:   E |v(x_t, t, y) - (x_1 - x_0)|^2 / d,   x_t = (1 - t) x_0 + t x_1,   t ~ U(0, 1)

A run of flow_matching, or of reflow, is where it begins: its velocity is the teacher, which stays, and where v starts.
The pairs have the same noise's sample in common, so paths no longer cross and become straighter, and few steps are
enough. The paper makes all pairs first and trains on them again and again; here each pair is made anew, from the
sample's own noise, and trained on at several times. Real images are not looked at.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.config import NonNegative, Positive
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.world import World
from pipeline.families.continuous_flow import ContinuousFlow, moments, velocity_of
from pipeline.families.ode import FixedSolver, integrate


@dataclass(frozen=True, kw_only=True)
class Reflow(ContinuousFlow):
    """A velocity whose paths are straightened: trained on pairs of noise and the teacher's sample of it.

    Attributes:
        pair_solver: of the teacher's samples.
        pair_steps: of it.
        pair_guidance: of the teacher's samples; the new velocity learns it.
        times: how many times t of each pair's line are trained on.
    """

    starts_from: ClassVar[tuple[str, ...]] = ("velocity",)

    pair_solver: FixedSolver = "midpoint"
    pair_steps: Positive = 10
    pair_guidance: NonNegative = 1.0
    times: Positive = 4

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"velocity": self.net(spec), "teacher": self.net(spec)})

    def initialize(self, nets: Nets, batch: Batch, world: World) -> None:
        nets["teacher"].load_state_dict(nets["velocity"].state_dict())

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("velocity", ("velocity",), self._loss),)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        net = velocity_of(nets)
        labels = self.seen_labels(net, batch)
        noise = batch.noise.normal("latent", *net.shape)
        times = batch.noise.uniform("time", self.times).flatten()
        start, line = (part.repeat_interleave(self.times, 0) for part in (noise, self._line(nets, noise, labels)))
        found = net(start + times[:, None, None, None] * line, times, labels.repeat_interleave(self.times))
        return (found - line).square().mean(), {}

    @torch.no_grad()
    def _line(self, nets: Nets, noise: Tensor, labels: Tensor) -> Tensor:
        """Return x_1 - x_0 (n, c, h, w) of noise x_0."""
        field = self.guided(nets["teacher"], labels, self.pair_guidance)  # type: ignore[arg-type]
        return integrate(field, noise, moments(self.pair_steps), self.pair_solver, self.tolerance) - noise
