"""Glow: Kingma, Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", NeurIPS 2018,
arXiv:1807.03039.

    step:      x -> s (x + b)                                ActNorm, s and b per channel from the first batch
               x -> W x,  W = P L (U + diag s)               invertible 1 x 1 convolution
               (x1, x2) -> (x1, (x2 + t(x1)) sigmoid(s(x1) + 2))   affine coupling
    flow:      levels x (squeeze, steps, half of the channels leave as z ~ N(mu(h), sigma(h)^2), h those that stay)
    loss:      -log2 p(v) / d + 8,  bits per dimension of dequantized 8-bit images

The paper's CIFAR-10 model (3.35 bits per dimension): levels 3, steps 32, width 512, lr 0.001, batch 512.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.config import Positive, PositiveFloat, Unit
from pipeline.core.batch import ImageSpec
from pipeline.families.flow import Flow
from pipeline.nets.flow.bijections import ActNorm, Bijection, InvertibleConv, Squeeze
from pipeline.nets.flow.conditioners import ConvConditioner, ConvZeros
from pipeline.nets.flow.couplings import Coupling
from pipeline.nets.flow.elements import SigmoidAffine, Standardize
from pipeline.nets.flow.multiscale import LearnedPrior


@dataclass(frozen=True, kw_only=True)
class Glow(Flow):
    """A flow of ActNorm, invertible 1 x 1 convolutions and affine couplings.

    Attributes:
        steps: steps of flow per level.
        net_norm: normalization in the couplings' networks.
        least_scale: c; the couplings' scale is c + (1 - c) sigmoid(s(x1) + 2). A coupling's inverse grows by at most
            1 / c, which keeps samples finite; in the paper c = 0, and many of a long training's samples overflow.
        class_conditional: a prior per class of the last level's latents, so that classes can be sampled.
    """

    steps: Positive = 4
    width: Positive = 64
    lr: PositiveFloat = 1e-3
    net_norm: Literal["actnorm", "none"] = "actnorm"
    least_scale: Unit = 0.5
    class_conditional: bool = False

    def layers(self, spec: ImageSpec) -> tuple[list[list[Bijection]], LearnedPrior]:
        if self.class_conditional and spec.classes == 0:
            raise ValueError("class_conditional: the data has no labels")
        channels = [spec.channels * 2 ** (level + 2) for level in range(self.depth(spec.size))]
        levels = [[Squeeze(), *self._steps(c)] for c in channels]
        for level, c in zip(levels[:-1], channels, strict=False):
            level.append(Coupling(ConvZeros(c // 2, c), Standardize()))
        return levels, LearnedPrior(channels[-1], spec.classes if self.class_conditional else 0)

    def overflow_remedy(self) -> str:
        growth = f"grows by up to {1 / self.least_scale:.3g}" if self.least_scale else "has no bound"
        return (
            f"Raise least_scale (now {self.least_scale}: each coupling's inverse {growth}; the default is 0.5) and "
            f"train again, or lower temperature (now {self.temperature})."
        )

    def _steps(self, channels: int) -> list[Bijection]:
        return [layer for _ in range(self.steps) for layer in self._step(channels)]

    def _step(self, channels: int) -> list[Bijection]:
        net = ConvConditioner(channels // 2, channels, width=self.width, actnorm=self.net_norm == "actnorm")
        coupling = Coupling(net, SigmoidAffine(self.least_scale))
        return [ActNorm(channels), InvertibleConv(channels), coupling]
