"""CVAE: Sohn, Lee, Yan, "Learning structured output representation using deep conditional generative models",
NeurIPS 2015; the condition is the label, the output the image.

    loss:  E_q(z|x,y) [-log p(x|z,y)] + beta KL(q(z|x,y) || p(z|y))

The encoder sees the label as further channels and the decoder next to z. The prior p(z|y) is a normal with a mean
and a variance per class, which begin at those of N(0, I) and are learned.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pipeline.core.batch import ImageSpec
from pipeline.core.method import Nets
from pipeline.families.vae import Elbo, Gaussian


@dataclass(frozen=True, kw_only=True)
class CVAE(Elbo):
    """A class-conditional VAE with a learned prior per class; its params are those of the family."""

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "prior")
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def encoder_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"classes": spec.classes, "conditioning": "concat"}

    def decoder_options(self, spec: ImageSpec) -> dict[str, Any]:
        return {"classes": spec.classes}

    def further_nets(self, spec: ImageSpec) -> dict[str, nn.Module]:
        prior = nn.Embedding(spec.classes, 2 * self.latent)  # mean and log variance
        nn.init.zeros_(prior.weight)
        return {"prior": prior}

    def prior(self, nets: Nets, labels: Tensor) -> Gaussian:
        return Gaussian(*nets["prior"](labels).chunk(2, dim=1))
