"""Real NVP: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017, arXiv:1605.08803.

    coupling:  y = b x + (1 - b) (x exp(s(b x)) + t(b x)),  b a mask: a checkerboard, or half of the channels
    level:     3 checkerboard couplings, squeeze, 3 channel-wise couplings, half of the channels leave as latents;
               the last level: 4 checkerboard couplings; each coupling's output is normalized
    data:      y = logit(alpha + (1 - 2 alpha) v)
    loss:      -log2 p(v) / d + 8,  bits per dimension of dequantized 8-bit images

The paper's CIFAR-10 model (3.49 bits per dimension): levels 2, width 64, blocks 8, Adam at its defaults, batch 64.
Left out: its L2 penalty of 5e-5 on the weight normalization's scales.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config import Positive, PositiveFloat
from pipeline.core.batch import ImageSpec
from pipeline.families.flow import Flow
from pipeline.nets.flow.bijections import FLOW_NORMS, Bijection, FlowNorm, Squeeze
from pipeline.nets.flow.conditioners import ResidualConditioner
from pipeline.nets.flow.couplings import Checkerboard, Coupling
from pipeline.nets.flow.elements import TanhAffine
from pipeline.nets.layers import NormName


@dataclass(frozen=True, kw_only=True)
class RealNVP(Flow):
    """A flow of affine couplings with checkerboard and channel masks.

    Attributes:
        width: hidden channels at the first level, doubled by every squeeze.
        blocks: residual blocks of a coupling's network.
        flow_norm: normalization of the couplings' outputs.
        net_norm: normalization in the couplings' networks.
    """

    halves_last: ClassVar[bool] = False

    width: Positive = 16
    blocks: Positive = 1
    preprocessing: Literal["center", "logit"] = "logit"
    lr: PositiveFloat = 1e-3
    flow_norm: FlowNorm = "batch"
    net_norm: NormName = "batch"

    def layers(self, spec: ImageSpec) -> tuple[list[list[Bijection]], None]:
        factors = [2**level for level in range(self.depth(spec.size))]
        channels, widths = [spec.channels * factor for factor in factors], [self.width * factor for factor in factors]
        levels = [self._level(*sizes) for sizes in zip(channels[:-1], widths[:-1], strict=True)]
        return [*levels, self._checkerboards(channels[-1], widths[-1], 4)], None

    def _level(self, channels: int, width: int) -> list[Bijection]:
        layers = [*self._checkerboards(channels, width, 3), Squeeze()]
        for index in range(3):
            half, element = 2 * channels, TanhAffine(2 * channels)
            layers += [
                Coupling(self._net(half, 2 * width), element, swap=index % 2 == 1),
                FLOW_NORMS[self.flow_norm](4 * channels),
            ]
        return layers

    def _checkerboards(self, channels: int, width: int, count: int) -> list[Bijection]:
        layers: list[Bijection] = []
        for index in range(count):
            element = TanhAffine(channels)
            layers += [
                Checkerboard(self._net(channels, width), element, stays=index % 2),
                FLOW_NORMS[self.flow_norm](channels),
            ]
        return layers

    def _net(self, channels: int, width: int) -> ResidualConditioner:
        return ResidualConditioner(
            channels, 2 * channels, width=width, blocks=self.blocks, norm_name=self.net_norm, entry=3, weighted=True
        )
