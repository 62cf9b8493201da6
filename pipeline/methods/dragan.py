"""DRAGAN: Kodali, Abernethy, Hays, Kira, "On convergence and stability of GANs", 2017, arXiv:1705.07215.

critic:     -E log s(D(x)) - E log(1 - s(D(G(z)))) + lambda E (|grad D(x')|_2 - 1)^2
            x' = e x + (1 - e) (x + std(x) u / 2),   e ~ U[0, 1] per image, u ~ U[0, 1] per pixel
generator:  -E log s(D(G(z)))
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.config import NonNegative, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.latents import PriorName
from pipeline.families.penalties import gradient_penalty, perturbed, refuse_batch_norm
from pipeline.nets.layers import NormName


@dataclass(frozen=True, kw_only=True)
class DRAGAN(NamedNets):
    """A GAN whose critic has unit gradients around the data.

    Defaults are those of the authors' code (uniform prior; Adam 1e-4, 0.5, 0.9).

    Attributes:
        penalty: lambda, the weight of the gradient penalty.
    """

    penalty: NonNegative = 10.0
    prior: PriorName = "uniform"
    lr: PositiveFloat = 1e-4
    beta1: Unit = 0.5
    beta2: Unit = 0.9
    critic_norm: NormName = "layer"

    def __post_init__(self) -> None:
        refuse_batch_norm(self)

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        around = perturbed(real, batch.noise.uniform("perturbation", *real.shape[1:]))
        penalty = gradient_penalty(critic, real, around, batch.noise.uniform("epsilon", 1, 1, 1))
        terms = {"real": softplus(-critic(real)).mean(), "fake": softplus(critic(fake)).mean()}
        return terms | {"penalty": self.penalty * penalty}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"fooling": softplus(-critic(fake)).mean()}
