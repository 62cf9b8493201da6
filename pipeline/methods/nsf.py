"""NSF, neural spline flows: Durkan, Bekasov, Murray, Papamakarios, NeurIPS 2019, arXiv:1906.04032.

    step:      ActNorm, invertible 1 x 1 convolution, coupling (x1, x2) -> (x1, g(x2; theta(x1)))
    g:         a monotonic rational-quadratic spline of K bins on [-B, B], the identity outside; in bin k, of
               width w, height h and s = h / w, with slopes d, d' at its ends and t = (x - x_k) / w,
               g = y_k + h (s t^2 + d t (1 - t)) / (s + (d + d' - 2 s) t (1 - t))
    flow:      levels x (squeeze, steps, 1 x 1 convolution), multi-scale or not
    loss:      -log2 p(v) / d + 8,  bits per dimension of dequantized 8-bit images

The paper's CIFAR-10 model (3.38 bits per dimension): levels 3, steps 7, width 96, blocks 3, bins 4, tail_bound 3,
dropout 0.2, multi_scale false, lr 0.0005 with a cosine schedule, 200,000 steps of 512 images.
"""

from dataclasses import dataclass
from typing import Annotated

from pipeline.config import Positive, PositiveFloat, Unit
from pipeline.config.validation import bounds
from pipeline.core.batch import ImageSpec
from pipeline.families.flow import Flow
from pipeline.families.optimization import Schedule
from pipeline.nets.flow.bijections import ActNorm, Bijection, InvertibleConv, Squeeze
from pipeline.nets.flow.conditioners import ResidualConditioner
from pipeline.nets.flow.couplings import Coupling
from pipeline.nets.flow.elements import Spline
from pipeline.nets.layers import NormName


@dataclass(frozen=True, kw_only=True)
class NSF(Flow):
    """A flow of spline couplings.

    Attributes:
        steps: steps of flow per level.
        blocks: residual blocks of a coupling's network.
        bins: K, the bins of a spline.
        tail_bound: B; outside [-B, B] a spline is the identity.
        dropout: share of a network's hidden channels that are zeroed in training.
        multi_scale: half of the channels leave after each level.
        net_norm: normalization in the couplings' networks.
    """

    steps: Positive = 3
    width: Positive = 32
    blocks: Positive = 1
    bins: Annotated[int, bounds(ge=2, le=100)] = 4
    tail_bound: PositiveFloat = 3.0
    dropout: Unit = 0.0
    multi_scale: bool = True
    lr: PositiveFloat = 5e-4
    schedule: Schedule = "cosine"
    net_norm: NormName = "batch"

    def layers(self, spec: ImageSpec) -> tuple[list[list[Bijection]], None]:
        growth = 2 if self.multi_scale else 4
        levels = [self._level(4 * spec.channels * growth**level) for level in range(self.depth(spec.size))]
        return levels if self.multi_scale else [[layer for level in levels for layer in level]], None

    def _level(self, channels: int) -> list[Bijection]:
        steps = [layer for _ in range(self.steps) for layer in self._step(channels)]
        return [Squeeze(), *steps, InvertibleConv(channels)]

    def _step(self, channels: int) -> list[Bijection]:
        half, spline = channels // 2, Spline(self.bins, self.tail_bound)
        net = ResidualConditioner(
            half,
            half * spline.numbers,
            width=self.width,
            blocks=self.blocks,
            norm_name=self.net_norm,
            entry=1,
            dropout=self.dropout,
        )
        return [ActNorm(channels), InvertibleConv(channels), Coupling(net, spline)]
