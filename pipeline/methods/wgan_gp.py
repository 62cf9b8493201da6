"""WGAN-GP: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs",
NeurIPS 2017, arXiv:1704.00028.

    critic:     E D(G(z)) - E D(x) + lambda E (|grad D(x')|_2 - 1)^2,   x' = e x + (1 - e) G(z), e ~ U[0, 1]
    generator:  -E D(G(z))
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.config import NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.penalties import gradient_penalty, refuse_batch_norm
from pipeline.nets.layers import NormName


@dataclass(frozen=True, kw_only=True)
class WGANGP(NamedNets):
    """A Wasserstein GAN with a gradient penalty; defaults at the paper's values (algorithm 1, layer norm).

    Attributes:
        penalty: lambda, the weight of the gradient penalty.
    """

    penalty: NonNegative = 10.0
    lr: PositiveFloat = 1e-4
    beta1: Unit = 0.0
    beta2: Unit = 0.9
    critic_steps: Positive = 5
    critic_norm: NormName = "layer"

    def __post_init__(self) -> None:
        refuse_batch_norm(self)

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        penalty = gradient_penalty(critic, real, fake, batch.noise.uniform("epsilon", 1, 1, 1))
        return {"distance": critic(fake).mean() - critic(real).mean(), "penalty": self.penalty * penalty}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
