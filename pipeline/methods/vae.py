"""VAE: Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, arXiv:1312.6114;
beta: Higgins et al., "beta-VAE", ICLR 2017.

    loss:  E_q(z|x) [-log p(x|z)] + beta KL(q(z|x) || N(0, I)),  q = N(mu(x), diag sigma(x)^2), z = mu + sigma e

p(x|z) is a discretized logistic around the decoder's image, its scale learned per channel, so the
negative ELBO is a bound on the bits per dimension of 8-bit images.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Method, Nets, Phase
from pipeline.families.latents import interpolation
from pipeline.families.ranges import require
from pipeline.families.vae import bits_per_dimension, discretized_logistic, kl_to_standard_normal
from pipeline.nets import dcgan
from pipeline.nets.layers import NORMS


@dataclass(frozen=True, kw_only=True)
class VAE(Method):
    """latent: dimensions of z. width: channels of the widest-resolution layer. beta: weight of the KL.

    norm: batch, instance, layer or none, in both nets.
    """

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "likelihood")

    latent: int = 32
    width: int = 32
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    beta: float = 1.0
    norm: str = "batch"

    def __post_init__(self) -> None:
        require(self, "latent", "width", "lr", positive=True)
        require(self, "beta1", "beta2", unit=True)
        require(self, "beta", nonnegative=True)
        require(self, "norm", among=NORMS)

    def build(self, spec: ImageSpec) -> Nets:
        shape: dict[str, Any] = {"channels": spec.channels, "size": spec.size, "width": self.width}
        shape["norm_name"] = self.norm
        return nn.ModuleDict(
            {
                "encoder": dcgan.Critic(outputs=2 * self.latent, **shape),
                "decoder": dcgan.Generator(latent=self.latent, **shape),
                "likelihood": LogScale(spec.channels),
            }
        )

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(name="vae", trains=self.sampled, loss=self._loss, optimizer=self._optimizer),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return nets["decoder"](like.noise.normal("latent", self.latent))

    def panels(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        count = min(16, len(batch))
        means, _ = self._encode(nets, batch.images[:count])
        pairs = torch.stack((batch.images[:count], nets["decoder"](means)))
        walk = interpolation(nets["decoder"], batch.noise.normal("latent", self.latent))
        return {"reconstructions": pairs, "interpolation": walk}

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        reconstruction, kl = self._negative_elbo(nets, batch)
        return {"elbo_bits_per_dim": bits_per_dimension(reconstruction + kl, batch.images[0].numel())}

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        reconstruction, kl = (part.mean() for part in self._negative_elbo(nets, batch))
        bits = bits_per_dimension(reconstruction + kl, batch.images[0].numel())
        return reconstruction + self.beta * kl, {"reconstruction": reconstruction, "kl": kl, "bits_per_dim": bits}

    def _negative_elbo(self, nets: Nets, batch: Batch) -> tuple[Tensor, Tensor]:
        """Its two parts in nats, one sample of z each: -log p(x|z) (n,) and the KL (n,)."""
        mean, log_variance = self._encode(nets, batch.images)
        latents = mean + (0.5 * log_variance).exp() * batch.noise.normal("posterior", self.latent)
        log_scale = nets["likelihood"]()
        log_probability = discretized_logistic(batch.images, nets["decoder"](latents), log_scale)
        return -log_probability, kl_to_standard_normal(mean, log_variance)

    def _encode(self, nets: Nets, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = nets["encoder"](images).chunk(2, dim=1)
        return mean, log_variance

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(parameters, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


class LogScale(nn.Module):
    """The likelihood's scale, one per channel: () -> (1, c, 1, 1), its logarithm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1, channels, 1, 1), -2.0))

    def forward(self) -> Tensor:
        return self.log_scale
