"""VQ-VAE: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017,
arXiv:1711.00937; the codebook by moving averages (appendix A.1).

    loss:  -log p(x | e) + beta |z - sg[e]|^2,   z = encoder(x), e the nearest code's vector, sg: no gradient

both as means, over the image's dimensions and over z's. The decoder's gradient goes straight through to z.

It has no prior over the codes: ``sample`` draws every code independently from its overall frequency, ignoring
position, which gives blurred texture rather than images and serves as a baseline. Its ELBO is that model's; the panel
to look at is its reconstructions. vq_transformer learns a prior over the codes of a trained vqvae.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pipeline.config import NonNegative, Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.vae import trained_nets
from pipeline.families.vq import Quantized, codebook_of, grid_of, move_codebook, straight_through
from pipeline.nets.codebook import Codebook, draw


@dataclass(frozen=True, kw_only=True)
class VQVAE(Quantized):
    """An autoencoder with a codebook that moves by averages.

    Attributes:
        commitment: beta, the weight of the distance between features and codes.
        decay: decay of the codebook's averages, per step.
        revival: codes used less than this share of an equal use are drawn from the batch again; 0: never.
    """

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "codebook", "decoder")

    commitment: NonNegative = 0.25
    decay: Unit = 0.99
    revival: Unit = 0.1

    def build(self, spec: ImageSpec) -> Nets:
        codebook = Codebook(codes=self.codes, dim=self.embedding, decay=self.decay, revival=self.revival)
        return nn.ModuleDict(self.autoencoder(spec, codebook))

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("vqvae", trained_nets(self, ("encoder", "decoder")), self._loss, after=move_codebook),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        uniform = like.noise.uniform("codes", *grid_of(nets))
        return self.image(nets, draw(codebook_of(nets).prior(), uniform))

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        codes = self.codes_of(nets, batch.images)
        log_likelihood = nets["likelihood"](batch.images, self.location(nets, codes), batch.noise)
        return self.bits(codebook_of(nets).prior()[codes].sum((1, 2)), log_likelihood, batch)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        codebook, features = codebook_of(nets), nets["encoder"](batch.images)
        codes = codebook.nearest(features)
        codebook.observe(features, codes)
        quantized = codebook(codes)
        location = nets["decoder"](straight_through(features, quantized))
        nats = -nets["likelihood"](batch.images, location, batch.noise).mean()
        reconstruction, commitment = nats / batch.images[0].numel(), mse_loss(features, quantized)
        logs = {"reconstruction": reconstruction, "commitment": commitment, "codes_in_use": codebook.in_use()}
        return reconstruction + self.commitment * commitment, logs
