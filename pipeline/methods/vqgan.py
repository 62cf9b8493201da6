"""VQGAN: Esser, Rombach, Ommer, "Taming transformers for high-resolution image synthesis", CVPR 2021,
arXiv:2012.09841, section 3.1; hinge loss of Lim, Ye, arXiv:1705.02894; the critic of patches of Isola et al.,
arXiv:1611.07004; the codes of van den Oord et al., arXiv:1711.00937; the perceptual distance of Zhang et al.,
arXiv:1801.03924.

    autoencoder:  L_rec + beta |z - sg[e]|^2 - w lambda E D(x'),   L_rec = -log p(x | e) + p d(x', x)
                  lambda = |grad L_rec| / (|grad E D(x')| + 1e-6),   both of the decoder's last weights (eq. 7)
    critic:       1/2 (E max(0, 1 - D(x)) + E max(0, 1 + D(x')))

z = encoder(x), e the nearest code's vector, as in vqvae, x' the image of p(x | e); the likelihood is per dimension. The
gradients in lambda are those of the global batch. Before ``critic_start`` the critic stays as it was built, and without
the perceptual term (p = 0) it is vqvae, to the bit.

What differs from the paper: d has EfficientNet-Lite0's features, as they come, instead of a VGG's with LPIPS's learned
weights (nets/perceptual.py), and **p is 0 unless it is set**: the paper's is 1. In the place of the absolute difference
is a likelihood, so codes bound bits per dimension. Encoder, decoder and codebook are vqvae's, without attention. Like
vqvae it has no prior over the codes: vq_transformer learns one.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.config import Count, NonNegative, Positive, PositiveFloat
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.vae import LIKELIHOODS, trained_nets
from pipeline.families.vq import CodeLearning, move_codebook
from pipeline.nets.balance import AdaptiveWeight
from pipeline.nets.layers import NormName
from pipeline.nets.patch import PatchCritic, least_size
from pipeline.nets.perceptual import PerceptualDistance
from pipeline.nets.vq import Decoder


@dataclass(frozen=True, kw_only=True)
class VQGAN(CodeLearning):
    """A vqvae whose reconstructions also face a critic of patches.

    Attributes:
        perceptual_weight: p, of the distance in EfficientNet-Lite0's features; 0: none, and that network is not needed.
        critic_start: images after which the critic begins, and its term of the autoencoder's loss.
        critic_weight: w; 1 gives the critic's term the gradient that L_rec has in the decoder's last layer.
        largest_weight: of lambda, where the critic's gradient is nearly none.
        critic_width: channels of the critic's first layer.
        critic_norm: normalization in the critic.
        patch_steps: convolutions between the critic's first and last; 3 sees patches of 70 x 70 pixels, 2 of 34, 1 of
            16; null: 2, or 1 where the images are smaller than 12 pixels.
        critic_lr: the critic's learning rate; null: ``lr``.
    """

    criticizes: ClassVar[bool] = True

    perceptual_weight: NonNegative = 0.0
    critic_start: Count = 0
    critic_weight: NonNegative = 0.8
    largest_weight: PositiveFloat = 1e4
    critic_width: Positive = 32
    critic_norm: NormName = "batch"
    patch_steps: Positive | None = None
    critic_lr: PositiveFloat | None = None

    def further_nets(self, spec: ImageSpec) -> dict[str, nn.Module]:
        steps = self.patch_steps or (2 if spec.size >= least_size(2) else 1)
        shape = {"channels": spec.channels, "size": spec.size, "width": self.critic_width, "steps": steps}
        critic = PatchCritic(norm_name=self.critic_norm, **shape)
        return {"critic": critic, "balance": AdaptiveWeight(self.largest_weight)}

    def pretrained(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"perceptual": PerceptualDistance(spec.size)} if self.perceptual_weight else {})

    def phases(self) -> tuple[Phase, ...]:
        learning = trained_nets(self, ("encoder", "decoder"))
        autoencoder = self.phase("autoencoder", learning, self._autoencoder, after=move_codebook)
        return autoencoder, self.phase("critic", ("critic",), self._critic, lr=self.critic_lr)

    def criticize(self, nets: Nets, images: Tensor, labels: Tensor) -> Tensor:
        """Return what the critic says of an image's patches, on average."""
        patches: Tensor = nets["critic"](images)
        return patches.flatten(1).mean(1)

    def _autoencoder(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        made = self.reconstructed(nets, batch)
        images = LIKELIHOODS[self.likelihood].image(made.location)
        reconstruction, logs = made.nats, dict(made.logs)
        if self.perceptual_weight:
            logs["perceptual"] = nets["perceptual"](images, batch.images).mean()
            reconstruction = reconstruction + self.perceptual_weight * logs["perceptual"]
        loss, last = reconstruction + self.commitment * made.commitment, _last_weights(nets)
        if clock.seen < self.critic_start:
            none = torch.zeros_like(loss)
            return loss, {**logs, "fooling": none, "adaptive_weight": none}
        batch.shared["fake"] = images.detach()
        fooling = -nets["critic"](images).mean()
        weight = nets["balance"](reconstruction, fooling, last)
        return loss + self.critic_weight * weight * fooling, {**logs, "fooling": fooling, "adaptive_weight": weight}

    def _critic(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        if clock.seen < self.critic_start:
            # It reaches no weight, so the optimizer takes no step and counts none: its moments begin with the critic.
            none = torch.zeros((), device=batch.images.device, requires_grad=True)
            return none, {"real": none, "fake": none}
        critic = nets["critic"]
        real = 0.5 * relu(1.0 - critic(batch.images)).mean()
        fake = 0.5 * relu(1.0 + critic(self._reconstruction(nets, batch))).mean()
        return real + fake, {"real": real, "fake": fake}

    def _reconstruction(self, nets: Nets, batch: Batch) -> Tensor:
        if "fake" in batch.shared:
            return batch.shared.pop("fake")
        with torch.no_grad():
            return self.image(nets, self.codes_of(nets, batch.images))


def _last_weights(nets: Nets) -> Tensor:
    """Return the weights of the decoder's last layer; ValueError if they are frozen."""
    weights = cast(Tensor, cast(Decoder, nets["decoder"]).layers[-1].weight)
    if not weights.requires_grad:
        raise ValueError(
            "freeze: the decoder's last layer has to learn, as the critic's weight is found from its gradient"
        )
    return weights
