"""What generative adversarial networks share: a generator, a critic, and a phase for each.

The discriminator is called critic throughout (code, params and logs), also where its scores are logits. A variant is
two equations, each given as named terms whose sum is the loss.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.config import Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.world import World
from pipeline.families.latents import PRIORS, PriorName
from pipeline.families.optimization import Optimized
from pipeline.nets.critic_augment import AUGMENTS, Adaptive, AugmentName, CriticAugment
from pipeline.nets.layers import NormName, Upsampling
from pipeline.nets.pairs import PAIRS, NetName
from pipeline.nets.shapes import CriticShape, GeneratorShape

Terms = dict[str, Tensor]
Critic = Callable[[Tensor], Any]
"""(n, c, h, w) -> (n, 1), or whatever a method's critic gives; the batch's labels are bound to it."""


@dataclass(frozen=True, kw_only=True)
class GAN(Optimized):
    """A generator against a critic.

    Attributes:
        latent: dimensions of z, what an image is made from.
        prior: of z: normal, N(0, 1), or uniform, U[-1, 1].
        critic_steps: steps of the critic per step of the generator.
        critic_lr: the critic's learning rate; null: ``lr`` (two time scales, Heusel et al., arXiv:1706.08500).
        critic_augment: augmentation of what the critic sees, real and generated; it does not leak into the images.
        ada_target: share of positive minus share of negative scores of real images to which ADA's strength steers.
    """

    sampled: ClassVar[tuple[str, ...]] = ("generator",)
    criticizes: ClassVar[bool] = True

    latent: Positive = 64
    prior: PriorName = "normal"
    critic_steps: Positive = 1
    critic_lr: PositiveFloat | None = None
    critic_augment: AugmentName = "none"
    ada_target: Unit = 0.6

    @abstractmethod
    def pair(self, spec: ImageSpec) -> Mapping[str, nn.Module]:
        """Build the nets "generator" and "critic", and others if a method has more.

        The generator maps (n, z) and labels (n,) to (n, c, h, w), the critic that and labels to (n, 1).
        """

    @abstractmethod
    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        """Return the terms of the critic's loss.

        Args:
            critic: scores images; ADA needs it called with ``real`` itself.
            real: real images (n, c, h, w), augmented as ``fake`` is.
            fake: generated images (n, c, h, w), without gradient.
            batch: labels and noise of the samples.
            clock: the time, for what depends on it.

        Returns:
            0-d tensors by name, whose sum is minimised.
        """

    @abstractmethod
    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        """Return the terms of the generator's loss: as ``critic_loss``, but the gradient flows through ``fake``."""

    # Declared hooks besides the contract's: the only implemented behaviour that a GAN may replace.

    def latents(self, batch: Batch) -> Tensor:
        """Return what the generator's images are made from, (n, latent)."""
        return PRIORS[self.prior](batch.noise, self.latent)

    def generate(self, nets: Nets, batch: Batch) -> Tensor:
        """Return the images of a training step, (n, c, h, w); by default those of sampling."""
        return self.sample(nets, batch)

    def real_images(self, batch: Batch, clock: Clock) -> Tensor:
        """Return the real images (n, c, h, w) that the losses see at a time; by default those of the batch."""
        return batch.images

    def regularizer(self, nets: Nets, batch: Batch, clock: Clock) -> Terms:
        """Return further terms of the generator's loss, of which the critic sees nothing; by default none."""
        return {}

    def after_generator(self, nets: Nets, world: World) -> None:
        """Act after each step of the generator, as ``Phase.after``; by default nothing."""

    def after_critic(self, nets: Nets, world: World) -> None:
        """Act after each step of the critic, as ``Phase.after``; by default nothing."""

    def build(self, spec: ImageSpec) -> Nets:
        augment = AUGMENTS[self.critic_augment](self.ada_target)
        return nn.ModuleDict(dict(self.pair(spec)) | {"augment": augment})

    def phases(self) -> tuple[Phase, ...]:
        # The generator first: the images of its step serve the critic's, which saves a forward pass.
        critic = self.phase(
            "critic",
            ("critic",),
            self._critic_phase,
            repeats=self.critic_steps,
            lr=self.critic_lr,
            after=self._after_critic,
        )
        generator = self.phase("generator", ("generator",), self._generator_phase, after=self.after_generator)
        return generator, critic

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        images: Tensor = nets["generator"](self.latents(like), like.labels)
        return images

    def criticize(self, nets: Nets, images: Tensor, labels: Tensor) -> Tensor:
        """Return the critic's first output, (n,); further ones classify or guess codes."""
        scores: Tensor = nets["critic"](images, labels)
        return scores.flatten(1)[:, 0]

    def _generator_phase(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        fake = self.generate(nets, batch)
        batch.shared["fake"] = fake.detach()
        real, fake = augmented(nets, self.real_images(batch, clock), fake, batch)
        critic = LabelledCritic(nets["critic"], batch.labels, real)
        terms = self.generator_loss(critic, real, fake, batch, clock)
        return summed(terms | self.regularizer(nets, batch, clock))

    def _critic_phase(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        real, fake = augmented(nets, self.real_images(batch, clock), self._fake(nets, batch), batch)
        critic, augment = LabelledCritic(nets["critic"], batch.labels, real), _augment(nets)
        loss, logs = summed(self.critic_loss(critic, real, fake, batch, clock))
        if isinstance(augment, Adaptive):
            augment.observe(critic.scores_of_real())
        return loss, dict(logs) | augment.logs()

    def _after_critic(self, nets: Nets, world: World) -> None:
        augment = _augment(nets)
        if isinstance(augment, Adaptive):
            augment.adapt(world)
        self.after_critic(nets, world)

    def _fake(self, nets: Nets, batch: Batch) -> Tensor:
        if "fake" in batch.shared:
            return batch.shared.pop("fake")
        with torch.no_grad():
            return self.generate(nets, batch)


@dataclass(frozen=True, kw_only=True)
class NamedNets(GAN):
    """A GAN whose nets are chosen by name.

    Attributes:
        net: of generator and critic.
        width: channels of the layer of the highest resolution; for mlp, units of a layer.
        critic_width: the critic's width; null: ``width``.
        upsampling: how the generator doubles the resolution.
        generator_norm: normalization in the generator.
        critic_norm: normalization in the critic.
        spectral_norm: whether the critic's layers are divided by their spectral norm.
        generator_spectral_norm: whether the generator's are.
    """

    net: NetName = "dcgan"
    width: Positive = 32
    critic_width: Positive | None = None
    upsampling: Upsampling = "transposed"
    generator_norm: NormName = "batch"
    critic_norm: NormName = "batch"
    spectral_norm: bool = False
    generator_spectral_norm: bool = False

    def generator_options(self, spec: ImageSpec) -> dict[str, Any]:
        """Return further fields of the generator's shape, such as classes; a declared hook."""
        return {}

    def critic_options(self, spec: ImageSpec) -> dict[str, Any]:
        """Return further fields of the critic's shape, such as classes or outputs; a declared hook."""
        return {}

    def pair(self, spec: ImageSpec) -> Mapping[str, nn.Module]:
        generator = GeneratorShape(
            latent=self.latent,
            channels=spec.channels,
            size=spec.size,
            width=self.width,
            norm_name=self.generator_norm,
            upsampling=self.upsampling,
            spectral=self.generator_spectral_norm,
            **self.generator_options(spec),
        )
        critic = CriticShape(
            channels=spec.channels,
            size=spec.size,
            width=self.critic_width or self.width,
            norm_name=self.critic_norm,
            spectral=self.spectral_norm,
            **self.critic_options(spec),
        )
        nets = PAIRS[self.net]
        return {"generator": nets.Generator(generator), "critic": nets.Critic(critic)}


class LabelledCritic:
    """The critic with a batch's labels bound to it; it keeps what it gave for the real images."""

    def __init__(self, critic: nn.Module, labels: Tensor, real: Tensor) -> None:
        self._critic, self._labels, self._real = critic, labels, real
        self._scores: Tensor | None = None

    def __call__(self, images: Tensor) -> Any:
        scores = self._critic(images, self._labels)
        if images is self._real:
            self._scores = scores
        return scores

    def scores_of_real(self) -> Tensor:
        """Return what the critic gave for the real images.

        Returns:
            Scores, (n, 1) or (n, outputs).

        Raises:
            RuntimeError: the loss never called the critic with the real images themselves.
        """
        if self._scores is None:
            raise RuntimeError(
                "ADA needs the scores of real images, but critic_loss never calls critic(real) with the images it was "
                "given, for example because it concatenates real and fake; call them apart or set critic_augment: none"
            )
        return self._scores


def augmented(nets: Nets, real: Tensor, fake: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what the critic sees of real and fake images, each changed by its own random numbers."""
    return nets["augment"](real, batch.noise.stream("real")), nets["augment"](fake, batch.noise.stream("fake"))


def summed(terms: Terms) -> tuple[Tensor, Logs]:
    """Return the loss, and its terms as logs where there is more than one."""
    return torch.stack(list(terms.values())).sum(), terms if len(terms) > 1 else {}


def _augment(nets: Nets) -> CriticAugment:
    augment = nets["augment"]
    assert isinstance(augment, CriticAugment)
    return augment
