"""Laws of the GAN family: what a variant may replace, and that ADA is told the scores of real images."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import descend
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.families.gan import GAN, Critic, NamedNets, Terms

VARIANTS = [name for name in methods.names() if issubclass(methods.find(name), GAN)]


@dataclass(frozen=True, kw_only=True)
class Separate(NamedNets):
    """A Wasserstein loss that scores real and fake images one after the other."""

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"distance": critic(fake).mean() - critic(real).mean()}

    def generator_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        return {"score": -critic(fake).mean()}


class Together(Separate):
    """The same loss from one pass over both."""

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, batch: Batch, clock: Clock) -> Terms:
        on_real, on_fake = critic(torch.cat((real, fake))).chunk(2)
        return {"distance": on_fake.mean() - on_real.mean()}


def critic_step(cls: type[GAN], **settings: Any) -> State:
    method = cls(width=4, latent=3, critic_norm="none", **settings)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, torch.device("cpu"))
    critic = next(phase for phase in state.phases if phase.name == "critic")
    descend(critic, state.nets, state.optimizers["critic"], toy_batch(8), Clock(seen=0, total=100), World())
    return state


def test_ada_counts_each_real_image_once() -> None:
    augment = critic_step(Separate, critic_augment="ada").nets["augment"]
    assert float(augment.images) == 8


def test_ada_refuses_a_loss_that_does_not_tell_it_the_scores_of_real_images() -> None:
    critic_step(Together)
    with pytest.raises(RuntimeError, match=r"never calls critic\(real\)"):
        critic_step(Together, critic_augment="ada")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_replaces_declared_hooks_alone(name: str) -> None:
    cls = methods.find(name)
    final = {"build", "phases", "phase", "rate", "_generator_phase", "_critic_phase", "_fake", "_after_critic"}
    families = (cls.__mro__[: cls.__mro__.index(NamedNets)]) if issubclass(cls, NamedNets) else [cls]
    assert not {key for variant in families for key in vars(variant)} & final
