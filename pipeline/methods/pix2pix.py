"""pix2pix: Isola, Zhu, Zhou, Efros, "Image-to-image translation with conditional adversarial networks", CVPR 2017,
arXiv:1611.07004.

    generator:  E -log sigmoid(D(a, G(a, z))) + lambda E |b - G(a, z)|_1
    critic:     1/2 (E -log sigmoid(D(a, b)) + E -log sigmoid(-D(a, G(a, z))))

a and b are a pair; D scores patches of both, one on the other. With ``adversarial: least_squares`` the logarithms
become (D - 1)^2 and D^2 (Mao et al., arXiv:1611.04076), as in the authors' code. z is dropout in the generator, in
training and in sampling. Sampled are translations of test images alone: of the others it has seen what they become.

It differs from the paper in the norm, which is of each image in the place of a batch (at the paper's batch of one they
are the same); in the order of the steps, the generator's first, whose images are the critic's too; and in fewer levels
where images are small. ``translate`` drops nothing: it gives one image for each, without z.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, softplus

from pipeline.config import NonNegative, Positive, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.noise import Noise
from pipeline.data.views import VIEWS, View
from pipeline.families.optimization import Optimized
from pipeline.nets.layers import NormName, Upsampling
from pipeline.nets.patch import PatchCritic, least_size
from pipeline.nets.skip_translator import SkipTranslator, default_levels

Adversarial = Literal["vanilla", "least_squares"]
LEAST_ERROR = 1e-10  # mean square, of which PSNR is 100 dB: no more is told apart

# What a patch's score costs, if it should be that of a real pair (True) or of a translation (False).
_COSTS: Mapping[Adversarial, Callable[[Tensor, bool], Tensor]] = {
    "vanilla": lambda scores, real: softplus(-scores if real else scores),
    "least_squares": lambda scores, real: (scores - float(real)).square(),
}


@dataclass(frozen=True, kw_only=True)
class Pix2Pix(Optimized):
    """A generator that sees an image, and a critic of patches that sees it too.

    Attributes:
        width: channels of the first layer of both nets (paper: 64).
        levels: how often the generator halves its images; null: as often as their size allows, 8 times at most.
        patch_steps: convolutions between the critic's first and last; 3 sees patches of 70 x 70 pixels, 2 of 34, 1 of
            16; null: 2, or 1 where the images are smaller than 12 pixels.
        reconstruction: lambda, the weight of the distance to the partner.
        adversarial: what the critic's scores cost: vanilla, the paper's, or least_squares.
        dropout: chance of each number of the three innermost decoders to be dropped: the noise.
        norm: normalization of both nets.
        upsampling: how the generator doubles the resolution.
    """

    sampled: ClassVar[tuple[str, ...]] = ("generator",)
    needs: ClassVar[frozenset[str]] = frozenset({"pair"})
    views: ClassVar[Mapping[str, View]] = VIEWS
    directions: ClassVar[tuple[str, ...]] = ("a_to_b",)

    width: Positive = 32
    levels: Positive | None = None
    patch_steps: Positive | None = None
    reconstruction: NonNegative = 100.0
    adversarial: Adversarial = "vanilla"
    dropout: Unit = 0.5
    norm: NormName = "instance"
    upsampling: Upsampling = "transposed"
    beta1: Unit = 0.5

    def build(self, spec: ImageSpec) -> Nets:
        steps = self.patch_steps or (2 if spec.size >= least_size(2) else 1)
        shape: dict[str, Any] = {"size": spec.size, "width": self.width, "norm_name": self.norm}
        generator = SkipTranslator(
            channels=spec.channels,
            levels=self.levels or default_levels(spec.size),
            dropout=self.dropout,
            upsampling=self.upsampling,
            **shape,
        )
        critic = PatchCritic(channels=2 * spec.channels, steps=steps, **shape)
        return nn.ModuleDict({"generator": generator, "critic": critic})

    def phases(self) -> tuple[Phase, ...]:
        generator = self.phase("generator", ("generator",), self._generator)
        return generator, self.phase("critic", ("critic",), self._critic)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return _translated(nets, like.images, like.noise)

    def translate(self, nets: Nets, images: Tensor, direction: str) -> Tensor:
        return _translated(nets, images, None)

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return how far samples are from the partners: mean |b - G(a, z)| in [0, 1], and PSNR in dB."""
        difference = (self.sample(nets, batch) - _partners(batch)).flatten(1) / 2
        square = difference.square().mean(1).clamp(min=LEAST_ERROR)
        return {"l1": difference.abs().mean(1), "psnr": -10 * square.log10()}

    def _generator(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        fake, real = self.sample(nets, batch), _partners(batch)
        batch.shared["fake"] = fake.detach()
        fooling = self._cost(nets, batch, fake, real=True)
        terms = {"fooling": fooling, "reconstruction": self.reconstruction * l1_loss(fake, real)}
        return fooling + terms["reconstruction"], terms

    def _critic(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        real = 0.5 * self._cost(nets, batch, _partners(batch), real=True)
        fake = 0.5 * self._cost(nets, batch, self._made(nets, batch), real=False)
        return real + fake, {"real": real, "fake": fake}

    def _cost(self, nets: Nets, batch: Batch, images: Tensor, *, real: bool) -> Tensor:
        """Return the mean cost of what the critic says of the batch's images together with these."""
        scores = nets["critic"](torch.cat((batch.images, images), dim=1))
        return _COSTS[self.adversarial](scores, real).mean()

    def _made(self, nets: Nets, batch: Batch) -> Tensor:
        if "fake" in batch.shared:
            return batch.shared.pop("fake")
        with torch.no_grad():
            return self.sample(nets, batch)


def _translated(nets: Nets, images: Tensor, noise: Noise | None) -> Tensor:
    translated: Tensor = nets["generator"](images, noise)
    return translated


def _partners(batch: Batch) -> Tensor:
    if batch.other is None:
        raise ValueError("pix2pix needs each image's partner (Batch.other)")
    return batch.other
