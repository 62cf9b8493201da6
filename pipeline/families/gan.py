"""What generative adversarial networks share: a generator, a critic, and a phase for each.

A variant is two equations, each given as named terms whose sum is the loss.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Method, Nets, Phase
from pipeline.families.latents import interpolation
from pipeline.families.ranges import require
from pipeline.nets import dcgan
from pipeline.nets.layers import NORMS

Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class GAN(Method):
    """latent: dimensions of z ~ N(0, I). width: channels of the widest-resolution layer.

    lr, beta1, beta2: Adam's, for both nets. critic_steps: critic steps per generator step.
    generator_norm, critic_norm: batch, instance, layer or none.
    """

    sampled: ClassVar[tuple[str, ...]] = ("generator",)

    latent: int = 64
    width: int = 32
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    critic_steps: int = 1
    generator_norm: str = "batch"
    critic_norm: str = "batch"

    def __post_init__(self) -> None:
        require(self, "latent", "width", "lr", "critic_steps", positive=True)
        require(self, "beta1", "beta2", unit=True)
        require(self, "generator_norm", "critic_norm", among=NORMS)

    @abstractmethod
    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """What the critic minimises; real, fake: (n, c, h, w)."""

    @abstractmethod
    def generator_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """What the generator minimises; the gradient flows through fake alone."""

    def build(self, spec: ImageSpec) -> Nets:
        shape = {"channels": spec.channels, "size": spec.size, "width": self.width}
        return nn.ModuleDict(
            {
                "generator": dcgan.Generator(latent=self.latent, norm_name=self.generator_norm, **shape),
                "critic": dcgan.Critic(norm_name=self.critic_norm, **shape),
            }
        )

    def phases(self) -> tuple[Phase, ...]:
        # The generator first: the images of its step serve the critic's, which saves a forward pass.
        return (
            Phase(name="generator", trains=("generator",), loss=self._generator_phase, optimizer=self._optimizer),
            Phase(
                name="critic",
                trains=("critic",),
                loss=self._critic_phase,
                optimizer=self._optimizer,
                repeats=self.critic_steps,
            ),
        )

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return nets["generator"](self.latents(like))

    def latents(self, batch: Batch) -> Tensor:
        """(n, latent)."""
        return batch.noise.normal("latent", self.latent)

    def panels(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"interpolation": interpolation(nets["generator"], self.latents(batch))}

    def _generator_phase(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        fake = self.sample(nets, batch)
        batch.shared["fake"] = fake.detach()
        return summed(self.generator_loss(nets["critic"], batch.images, fake, batch))

    def _critic_phase(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        return summed(self.critic_loss(nets["critic"], batch.images, self._fake(nets, batch), batch))

    def _fake(self, nets: Nets, batch: Batch) -> Tensor:
        if "fake" in batch.shared:
            return batch.shared.pop("fake")
        with torch.no_grad():
            return self.sample(nets, batch)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(parameters, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


def summed(terms: Terms) -> tuple[Tensor, Logs]:
    """The loss, and its terms as logs where there is more than one."""
    return torch.stack(list(terms.values())).sum(), terms if len(terms) > 1 else {}
