"""AC-GAN: Odena, Olah, Shlens, "Conditional image synthesis with auxiliary classifier GANs", ICML 2017,
arXiv:1610.09585.

    source:     L_S = E log s(D(x)) + E log(1 - s(D(G(z, y))))                 (eq. 2)
    class:      L_C = E log P(Y = y | x) + E log P(Y = y | G(z, y))            (eq. 3)
    critic:     -L_S - w L_C
    generator:  -E log s(D(G(z, y))) - w E log P(Y = y | G(z, y))              (non-saturating)

P(Y | x) is a softmax over further outputs of the critic: it never sees a label.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from pipeline.config import NonNegative, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.families.gan import Critic, NamedNets, Terms


@dataclass(frozen=True, kw_only=True)
class ACGAN(NamedNets):
    """An auxiliary classifier GAN; defaults at the paper's values.

    Attributes:
        classification: w, the weight of the classes' likelihood.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    classification: NonNegative = 1.0
    beta1: Unit = 0.5

    def generator_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"classes": spec.classes}

    def critic_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"outputs": 1 + spec.classes}

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        on_real, on_fake = critic(real), critic(fake)
        return {
            "real": softplus(-on_real[:, 0]).mean(),
            "fake": softplus(on_fake[:, 0]).mean(),
            "real_class": self.classification * cross_entropy(on_real[:, 1:], batch.labels),
            "fake_class": self.classification * cross_entropy(on_fake[:, 1:], batch.labels),
        }

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        on_fake = critic(fake)
        of_class = cross_entropy(on_fake[:, 1:], batch.labels)
        return {"fooling": softplus(-on_fake[:, 0]).mean(), "class": self.classification * of_class}
