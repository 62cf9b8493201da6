"""VQ Transformer: an autoregressive prior over the codes of a VQ-VAE, class-conditional where there are classes.
Esser, Rombach, Ommer, "Taming transformers for high-resolution image synthesis", CVPR 2021, arXiv:2012.09841,
section 3.2, over the codes of van den Oord et al., arXiv:1711.00937.

    loss:  -1/t sum_i log p(c_i | c_1 .. c_{i-1}, y),   c the t codes of an image, row by row, y its label

A trained vqvae's nets are where it starts from and stay as they are: only the Transformer learns. The first
params say how that vqvae was built and must be its. Since p(x|y) >= p(c|y) p(x|c) for the encoder's codes c,
their sum in bits bounds the bits per dimension.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.config import NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.optimization import OptimizerName
from pipeline.families.vq import Quantized, grid_of
from pipeline.nets.codebook import Codebook
from pipeline.nets.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class VQTransformer(Quantized):
    """A Transformer over the codes of a trained vqvae.

    Attributes:
        layers: blocks of the Transformer.
        heads: attention heads of a block.
        transformer_width: dimensions of a token; a multiple of ``heads``.
    """

    sampled: ClassVar[tuple[str, ...]] = ("transformer", "codebook", "decoder")
    starts_from: ClassVar[tuple[str, ...]] = ("encoder", "codebook", "decoder", "likelihood")

    layers: Positive = 4
    heads: Positive = 4
    transformer_width: Positive = 128
    optimizer: OptimizerName = "adamw"
    lr: PositiveFloat = 5e-4
    beta2: Unit = 0.95
    weight_decay: NonNegative = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transformer_width % self.heads:
            raise ValueError(f"transformer_width: should be a multiple of the {self.heads} heads")

    def build(self, spec: ImageSpec) -> Nets:
        nets = self.autoencoder(spec, Codebook(codes=self.codes, dim=self.embedding))
        nets["transformer"] = Transformer(
            codes=self.codes,
            length=self.codes_per_side(spec.size) ** 2,
            classes=spec.classes,
            width=self.transformer_width,
            layers=self.layers,
            heads=self.heads,
        )
        return nn.ModuleDict(nets)

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("transformer", ("transformer",), self._loss),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        transformer = cast(Transformer, nets["transformer"])
        codes = transformer.generate(like.noise.uniform("codes", transformer.length), like.labels)
        return self.image(nets, codes.unflatten(1, grid_of(nets)))

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        codes = self.codes_of(nets, batch.images)
        log_prior = -self._nats(nets, codes, batch.labels).sum(1)
        log_likelihood = nets["likelihood"](batch.images, self.location(nets, codes), batch.noise)
        return {"nats_per_code": -log_prior / codes[0].numel()} | self.bits(log_prior, log_likelihood, batch)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            codes = self.codes_of(nets, batch.images)
        return self._nats(nets, codes, batch.labels).mean(), {}

    def _nats(self, nets: Nets, codes: Tensor, labels: Tensor) -> Tensor:
        """-log p of each code given those before it: (n, g, g), (n,) -> (n, t)."""
        sequence = codes.flatten(1)
        logits = nets["transformer"](sequence, labels)
        return cross_entropy(logits.flatten(0, 1), sequence.flatten(), reduction="none").view_as(sequence)
