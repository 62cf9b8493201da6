"""WGAN: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, arXiv:1701.07875.

critic:     E D(G(z)) - E D(x),   then every weight of D into [-clip, clip]      (algorithm 1)
generator:  -E D(G(z))
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.config import Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock
from pipeline.core.method import Nets
from pipeline.core.world import World
from pipeline.families.gan import Critic, NamedNets, Terms
from pipeline.families.optimization import OptimizerName
from pipeline.families.penalties import clip_weights


@dataclass(frozen=True, kw_only=True)
class WGAN(NamedNets):
    """A Wasserstein GAN with clipped weights; defaults at the paper's values (RMSprop, no momentum).

    Attributes:
        clip: bound of the critic's weights.
    """

    clip: PositiveFloat = 0.01
    optimizer: OptimizerName = "rmsprop"
    lr: PositiveFloat = 5e-5
    beta2: Unit = 0.99
    critic_steps: Positive = 5

    def after_critic(self, nets: Nets, world: World) -> None:
        clip_weights(nets["critic"], self.clip)

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"distance": critic(fake).mean() - critic(real).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
