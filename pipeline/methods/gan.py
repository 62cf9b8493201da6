"""GAN: Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio, "Generative
adversarial nets", NeurIPS 2014, arXiv:1406.2661.

    critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))),   s the sigmoid       (eq. 1)
    generator:   E log(1 - s(D(G(z))))                     minimax
                -E log s(D(G(z)))                          non-saturating      (section 3)
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.ranges import require

# of the critic's scores of generated images
OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda scores: -softplus(scores).mean(),
    "nonsaturating": lambda scores: softplus(-scores).mean(),
}


@dataclass(frozen=True, kw_only=True)
class OriginalGAN(NamedNets):
    """objective: the generator's, minimax or nonsaturating. Perceptrons and a uniform prior, as in the paper; unlike
    it Adam, whose SGD's rates it does not give, and batch norm in the generator, without which it collapses."""

    objective: str = "nonsaturating"
    net: str = "mlp"
    width: int = 256
    latent: int = 100
    prior: str = "uniform"
    beta1: float = 0.5
    critic_norm: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "objective", among=tuple(OBJECTIVES))

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": OBJECTIVES[self.objective](critic(fake))}
