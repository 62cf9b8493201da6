"""VQ-VAE: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017,
arXiv:1711.00937; the codebook by moving averages (appendix A.1).

    loss:  -log p(x | e) + beta |z - sg[e]|^2,   z = encoder(x), e the nearest code's vector, sg: no gradient

both as means, over the image's dimensions and over z's. The decoder's gradient goes straight through to z.

It has no prior over the codes: ``sample`` draws every code independently from its overall frequency, ignoring
position, which gives blurred texture rather than images and serves as a baseline. Its ELBO is that model's; the panel
to look at is its reconstructions. vq_transformer learns a prior over the codes of a trained vqvae.
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.core.batch import Batch, Clock
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.vae import trained_nets
from pipeline.families.vq import CodeLearning, move_codebook


@dataclass(frozen=True, kw_only=True)
class VQVAE(CodeLearning):
    """An autoencoder with a codebook that moves by averages; its params are those of the family."""

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("vqvae", trained_nets(self, ("encoder", "decoder")), self._loss, after=move_codebook),)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        made = self.reconstructed(nets, batch)
        return made.nats + self.commitment * made.commitment, made.logs
