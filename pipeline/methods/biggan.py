"""BigGAN: Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image synthesis",
ICLR 2019, arXiv:1809.11096.

    critic:     E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y))
    generator:  -E D(G(z, y), y) + beta sum |W W^T * (1 - I)|_F^2,   over the generator's weights W as matrices

The generator's norms are scaled and shifted by a shared embedding of the class y and by parts of z; the critic
projects the class; both have spectral norm and self-attention. Truncation is a property of the noise that sampling
is given.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.config import Count, NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Nets
from pipeline.families.gan import GAN, Critic, Terms
from pipeline.nets import biggan
from pipeline.nets.layers import NormName
from pipeline.nets.shapes import PyramidShape


@dataclass(frozen=True, kw_only=True)
class BigGAN(GAN):
    """A class-conditional residual GAN with self-attention.

    The paper at 128 pixels: latent 120, embedding 128, width 96, max_width 1536, attention 2, batches of 2048,
    critic_steps 2.

    Attributes:
        embedding: dimensions of the shared class embedding.
        width: channels at the data's size, doubling with each halving.
        max_width: channels at most.
        attention: self-attention where maps are size / attention wide; 0: none.
        generator_norm: normalization in the generator, scaled and shifted by class and latents.
        orthogonal: beta, the weight of the orthogonal penalty.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    latent: Positive = 64
    embedding: Positive = 32
    width: Positive = 32
    max_width: Positive = 128
    attention: Count = 2
    generator_norm: NormName = "batch"
    orthogonal: NonNegative = 1e-4
    lr: PositiveFloat = 5e-5
    critic_lr: PositiveFloat | None = 2e-4
    critic_steps: Positive = 2
    beta1: Unit = 0.0

    def pair(self, spec: ImageSpec) -> dict[str, nn.Module]:
        shape = PyramidShape(
            channels=spec.channels, size=spec.size, width=self.width, max_width=self.max_width, classes=spec.classes
        )
        generator = biggan.Generator(
            shape,
            latent=self.latent,
            embedding=self.embedding,
            norm_name=self.generator_norm,
            attention=self.attention,
        )
        return {"generator": generator, "critic": biggan.Critic(shape, attention=self.attention)}

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": relu(1 - critic(real)).mean(), "fake": relu(1 + critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": -critic(fake).mean()}

    def regularizer(self, nets: Nets, batch: Batch, clock: Clock) -> Terms:
        return {"orthogonality": self.orthogonal * cast(biggan.Generator, nets["generator"]).orthogonality()}
