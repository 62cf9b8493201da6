"""CycleGAN: Zhu, Park, Isola, Efros, "Unpaired image-to-image translation using cycle-consistent adversarial
networks", ICCV 2017, arXiv:1703.10593; least squares of Mao et al., arXiv:1611.04076.

    generators:  E (D_B(G(a)) - 1)^2 + E (D_A(F(b)) - 1)^2
                 + lambda (E |F(G(a)) - a|_1 + E |G(F(b)) - b|_1) + mu lambda (E |G(b) - b|_1 + E |F(a) - a|_1)
    critics:     1/2 (E (D(real) - 1)^2 + E D(pooled)^2), pooled: of the pool of earlier translations

a and b come from two domains, unpaired; G: A -> B, F: B -> A. The samples are G(a).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from pipeline.config import Count, NonNegative, Positive, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.world import World
from pipeline.families.optimization import Optimized, Schedule
from pipeline.nets.layers import NormName, Upsampling
from pipeline.nets.patch import ImagePool, PatchCritic, Translator, least_size


@dataclass(frozen=True, kw_only=True)
class CycleGAN(Optimized):
    """Two generators, which translate between two domains, and a critic of patches for each domain.

    Attributes:
        width: channels of the first layer (paper: 64).
        blocks: residual blocks of a generator (paper: 6 at 128 pixels).
        patch_steps: convolutions between a critic's first and last; 3 sees patches of 70 x 70 pixels, 2 of 34, 1 of
            16; null: 2, or 1 where the images are smaller than 12 pixels.
        cycle: lambda, the weight of cycle consistency.
        identity: mu, the weight of the identity loss relative to ``cycle``.
        pool: earlier translations kept per domain, of which the critics see some; 0: none.
        norm: normalization of all four nets.
        upsampling: how the generators double the resolution.
    """

    sampled: ClassVar[tuple[str, ...]] = ("a_to_b", "b_to_a")
    needs: ClassVar[frozenset[str]] = frozenset({"other"})
    directions: ClassVar[tuple[str, ...]] = ("a_to_b", "b_to_a")
    encodes: ClassVar[tuple[str, ...]] = directions
    decodes: ClassVar[tuple[str, ...]] = directions
    criticizes: ClassVar[bool] = True

    width: Positive = 32
    blocks: Count = 3
    patch_steps: Positive | None = None
    cycle: NonNegative = 10.0
    identity: NonNegative = 0.5
    pool: Count = 50
    norm: NormName = "instance"
    upsampling: Upsampling = "transposed"
    beta1: Unit = 0.5
    schedule: Schedule = "late_linear"

    def build(self, spec: ImageSpec) -> Nets:
        steps = self.patch_steps or (2 if spec.size >= least_size(2) else 1)

        def translator() -> Translator:
            shape = {"channels": spec.channels, "size": spec.size, "width": self.width, "blocks": self.blocks}
            return Translator(norm_name=self.norm, upsampling=self.upsampling, **shape)

        def critic() -> PatchCritic:
            shape = {"channels": spec.channels, "size": spec.size, "width": self.width, "steps": steps}
            return PatchCritic(norm_name=self.norm, **shape)

        nets: dict[str, nn.Module] = {"a_to_b": translator(), "b_to_a": translator()}
        nets |= {"critic_a": critic(), "critic_b": critic()}
        nets |= {f"pool_{name}": ImagePool(self.pool, spec.channels, spec.size) for name in "ab"}
        return nn.ModuleDict(nets)

    def phases(self) -> tuple[Phase, ...]:
        generators = self.phase("generators", ("a_to_b", "b_to_a"), self._generators)
        return generators, self.phase("critics", ("critic_a", "critic_b"), self._critics, after=_absorb)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return self.translate(nets, like.images, "a_to_b")

    def translate(self, nets: Nets, images: Tensor, direction: str) -> Tensor:
        translated: Tensor = nets[direction](images)
        return translated

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return the images' translations in both directions: an image belongs to one domain, which is not known."""
        return {direction: self.translate(nets, batch.images, direction) for direction in self.directions}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Translate a translation back."""
        direction = next(name for name in self.directions if name in encoded)
        return self.translate(nets, encoded[direction], next(name for name in self.directions if name != direction))

    def criticize(self, nets: Nets, images: Tensor, labels: Tensor) -> Tensor:
        """Return what the critic of the samples' domain says of an image's patches, on average."""
        patches: Tensor = nets["critic_b"](images)
        return patches.flatten(1).mean(1)

    def _generators(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        terms: dict[str, Tensor] = {}
        for source, images, there, back in _directions(batch):
            fake = nets[there](images)
            batch.shared[there] = fake.detach()
            terms[f"fooling_{source}"] = (nets[f"critic_{there[-1]}"](fake) - 1).square().mean()
            terms[f"cycle_{source}"] = self.cycle * l1_loss(nets[back](fake), images)
            terms[f"identity_{source}"] = self.cycle * self.identity * l1_loss(nets[back](images), images)
        return torch.stack(list(terms.values())).sum(), terms

    def _critics(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        terms = {}
        for domain, real, _, into in _directions(batch):
            fake = nets[f"pool_{domain}"](self._made(nets, batch, into), batch.noise.stream(domain))
            critic = nets[f"critic_{domain}"]
            terms[domain] = 0.5 * ((critic(real) - 1).square().mean() + critic(fake).square().mean())
        return torch.stack(list(terms.values())).sum(), terms

    def _made(self, nets: Nets, batch: Batch, net: str) -> Tensor:
        if net in batch.shared:
            return batch.shared.pop(net)
        source = next(images for _, images, there, _ in _directions(batch) if there == net)
        with torch.no_grad():
            made: Tensor = nets[net](source)
        return made


def _directions(batch: Batch) -> tuple[tuple[str, Tensor, str, str], ...]:
    """(domain, its images, the net out of it, the net into it)."""
    if batch.other is None:
        raise ValueError("cyclegan needs a second domain (Batch.other)")
    return ("a", batch.images, "a_to_b", "b_to_a"), ("b", batch.other, "b_to_a", "a_to_b")


def _absorb(nets: Nets, world: World) -> None:
    for name in ("pool_a", "pool_b"):
        pool = nets[name]
        assert isinstance(pool, ImagePool)
        pool.absorb(world)
