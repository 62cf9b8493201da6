"""GAN: Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio, "Generative
adversarial nets", NeurIPS 2014, arXiv:1406.2661.

    critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))),   s the sigmoid       (eq. 1)
    generator:   E log(1 - s(D(G(z))))                     minimax
                -E log s(D(G(z)))                          non-saturating      (section 3)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.config import Positive, Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.latents import PriorName
from pipeline.nets.layers import NormName
from pipeline.nets.pairs import NetName

Objective = Literal["minimax", "nonsaturating"]

# The generator's loss from the critic's scores of generated images.
OBJECTIVES: dict[Objective, Callable[[Tensor], Tensor]] = {
    "minimax": lambda scores: -softplus(scores).mean(),
    "nonsaturating": lambda scores: softplus(-scores).mean(),
}


@dataclass(frozen=True, kw_only=True)
class OriginalGAN(NamedNets):
    """The original GAN: perceptrons and a uniform prior, as in the paper.

    Unlike the paper it has Adam (the paper does not give the learning rates of its SGD), and batch norm in the
    generator, without which it collapses.

    Attributes:
        objective: the generator's.
    """

    objective: Objective = "nonsaturating"
    net: NetName = "mlp"
    width: Positive = 256
    latent: Positive = 100
    prior: PriorName = "uniform"
    beta1: Unit = 0.5
    critic_norm: NormName = "none"

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": OBJECTIVES[self.objective](critic(fake))}
