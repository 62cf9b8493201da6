"""ProGAN: Karras, Aila, Laine, Lehtinen, "Progressive growing of GANs for improved quality, stability, and
variation", ICLR 2018, arXiv:1710.10196; the loss is WGAN-GP's (arXiv:1704.00028) with a drift term.

    critic:     E D(G(z)) - E D(x) + lambda E (|grad D(x')|_2 - 1)^2 + e E D(x)^2,   x' between x and G(z)
    generator:  -E D(G(z))

Both nets begin at 4 to 15 pixels and grow to the data's size: each further level fades in, and then trains for the same
time. While a level fades in, real images fade in the same way from those of the level before.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.config import NonNegative, Positive, PositiveFloat, Share, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Nets
from pipeline.families.gan import GAN, Critic, Terms
from pipeline.families.penalties import gradient_penalty
from pipeline.nets import progan
from pipeline.nets.layers import doublings
from pipeline.nets.shapes import PyramidShape


@dataclass(frozen=True, kw_only=True)
class ProGAN(GAN):
    """A GAN that grows from small images to the data's size.

    The paper: latent 512, width 16 at 1024 pixels, max_width 512. The critic's minibatch deviation is of groups of 4
    neighbouring samples.

    Attributes:
        width: channels at the data's size, doubling with each smaller level.
        max_width: channels at most.
        growth: share of the budget at whose end the data's size is reached; the paper shows 800,000 images per stage
            (a level's fade-in or its training) and goes on until nothing improves.
        penalty: lambda, the weight of the gradient penalty.
        drift: e, the weight of the squared scores of real images.
    """

    latent: Positive = 64
    width: Positive = 16
    max_width: Positive = 128
    growth: Share = 0.5
    penalty: NonNegative = 10.0
    drift: NonNegative = 0.001
    lr: PositiveFloat = 1e-3
    beta1: Unit = 0.0
    beta2: Unit = 0.99

    def uses_budget(self) -> bool:
        return True  # the pyramid is grown within a share of it

    def pair(self, spec: ImageSpec) -> dict[str, nn.Module]:
        shape = PyramidShape(channels=spec.channels, size=spec.size, width=self.width, max_width=self.max_width)
        return {"generator": progan.Generator(shape, latent=self.latent), "critic": progan.Critic(shape)}

    def real_images(self, batch: Batch, clock: Clock) -> Tensor:
        _, steps = doublings(batch.images.shape[-1])
        return progan.faded(batch.images, self.progress(clock, steps))

    def set_progress(self, nets: Nets, clock: Clock) -> None:
        for net in nets.values():
            if isinstance(net, progan.Growing):
                net.set_progress(self.progress(clock, net.steps))

    def progress(self, clock: Clock, steps: int) -> float:
        """Return the level that the nets have reached, in [0, steps]; a fraction while a level fades in.

        One stage trains the first level; then each level has one to fade in and one to train.
        """
        stages = clock.fraction / self.growth * (2 * steps + 1)
        level, inside = divmod(max(stages - 1.0, 0.0), 2.0)
        return min(level + min(inside, 1.0), float(steps))

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        scores = critic(real)
        penalty = gradient_penalty(critic, real, fake, batch.noise.uniform("epsilon", 1, 1, 1))
        return {
            "distance": critic(fake).mean() - scores.mean(),
            "penalty": self.penalty * penalty,
            "drift": self.drift * scores.square().mean(),
        }

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}
