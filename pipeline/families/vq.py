"""What methods on a grid of discrete codes share: the autoencoder with its codebook, how it learns, and the codebook's
step.

Legend: n samples, d dimensions of a code's vector, g x g grid of codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pipeline.config import Count, NonNegative, Positive, PositiveFloat, Unit
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Logs, Nets
from pipeline.core.world import World
from pipeline.families.optimization import Optimized
from pipeline.families.vae import LIKELIHOODS, LikelihoodName, bound_in_bits, check_likelihood
from pipeline.nets.codebook import Codebook, draw
from pipeline.nets.vq import Decoder, Encoder, default_grid


@dataclass(frozen=True, kw_only=True)
class Quantized(Optimized):
    """An autoencoder with a grid of discrete codes.

    Attributes:
        codes: how many there are.
        embedding: dimensions of a code's vector.
        grid: codes per side of an image; null: 8 at 32 pixels, and the size halved to 6 .. 11, or to an odd
            number, at others.
        width: channels of encoder and decoder.
        blocks: residual blocks in each of them.
        likelihood: of the pixels, given the codes.
        scale: of a gaussian or logistic around its location, where images are in [-1, 1]; null: learned.
    """

    encodes: ClassVar[tuple[str, ...]] = ("codes",)
    decodes: ClassVar[tuple[str, ...]] = ("codes",)

    codes: Positive = 512
    embedding: Positive = 64
    grid: Positive | None = None
    width: Positive = 64
    blocks: Count = 2
    likelihood: LikelihoodName = "discretized_logistic"
    scale: PositiveFloat | None = None

    def __post_init__(self) -> None:
        check_likelihood(self)

    def codes_per_side(self, size: int) -> int:
        """Return ``grid``, or that of images of a size."""
        return self.grid or default_grid(size)

    def autoencoder(self, spec: ImageSpec, codebook: Codebook) -> dict[str, nn.Module]:
        """Build the nets "encoder", "codebook", "decoder" and "likelihood"."""
        shape = {
            "channels": spec.channels,
            "size": spec.size,
            "grid": self.codes_per_side(spec.size),
            "width": self.width,
        }
        inner = {"dim": self.embedding, "blocks": self.blocks}
        likelihood = LIKELIHOODS[self.likelihood](spec.channels, self.scale)
        encoder, decoder = Encoder(**shape, **inner), Decoder(**shape, **inner)
        return {"encoder": encoder, "codebook": codebook, "decoder": decoder, "likelihood": likelihood}

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"codes": self.codes_of(nets, batch.images)}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.image(nets, encoded["codes"])

    def codes_of(self, nets: Nets, images: Tensor) -> Tensor:
        """Encode images (n, c, h, w) to codes (n, g, g) int64."""
        codes: Tensor = codebook_of(nets).nearest(nets["encoder"](images))
        return codes

    def location(self, nets: Nets, codes: Tensor) -> Tensor:
        """Decode codes (n, g, g) int64 to the locations (n, c, h, w) of p(x | codes)."""
        location: Tensor = nets["decoder"](nets["codebook"](codes))
        return location

    def image(self, nets: Nets, codes: Tensor) -> Tensor:
        """Decode codes (n, g, g) int64 to images (n, c, h, w) in [-1, 1]."""
        return LIKELIHOODS[self.likelihood].image(self.location(nets, codes))

    def bits(self, log_prior: Tensor, log_likelihood: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return log p(codes) + log p(x | codes) <= log p(x), (n,) each, as bits per dimension.

        It is the evidence lower bound whose posterior is certain of the codes that the encoder gives.
        """
        return bound_in_bits(self.likelihood, "elbo", log_prior + log_likelihood, batch.images)


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder's step made of a batch.

    Attributes:
        location: of p(x | codes), (n, c, h, w).
        nats: -log p(x | codes) per dimension, the batch's mean.
        commitment: the mean squared distance between the encoder's features and their codes' vectors.
        logs: of all that.
    """

    location: Tensor
    nats: Tensor
    commitment: Tensor
    logs: Logs


@dataclass(frozen=True, kw_only=True)
class CodeLearning(Quantized):
    """An autoencoder that learns its codes; its samples are of independent codes.

    Attributes:
        commitment: beta, the weight of the distance between features and codes.
        decay: decay of the codebook's averages, per step.
        revival: codes used less than this share of an equal use are drawn from the batch again; 0: never.
    """

    sampled: ClassVar[tuple[str, ...]] = ("encoder", "codebook", "decoder")

    commitment: NonNegative = 0.25
    decay: Unit = 0.99
    revival: Unit = 0.1

    # Declared hook besides the contract's: the only implemented behaviour that a method may replace.

    def further_nets(self, spec: ImageSpec) -> dict[str, nn.Module]:
        """Return nets besides those of the autoencoder; by default none."""
        return {}

    def build(self, spec: ImageSpec) -> Nets:
        codebook = Codebook(codes=self.codes, dim=self.embedding, decay=self.decay, revival=self.revival)
        return nn.ModuleDict(self.autoencoder(spec, codebook) | self.further_nets(spec))

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        uniform = like.noise.uniform("codes", *grid_of(nets))
        return self.image(nets, draw(codebook_of(nets).prior(), uniform))

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        codes = self.codes_of(nets, batch.images)
        log_likelihood = nets["likelihood"](batch.images, self.location(nets, codes), batch.noise)
        return self.bits(codebook_of(nets).prior()[codes].sum((1, 2)), log_likelihood, batch)

    def reconstructed(self, nets: Nets, batch: Batch) -> Reconstruction:
        """Encode, quantize and decode the batch with gradients; the codebook remembers it for its own step."""
        codebook, features = codebook_of(nets), nets["encoder"](batch.images)
        codes = codebook.nearest(features)
        codebook.observe(features, codes)
        quantized = codebook(codes)
        location = nets["decoder"](straight_through(features, quantized))
        nats = -nets["likelihood"](batch.images, location, batch.noise).mean() / batch.images[0].numel()
        commitment = mse_loss(features, quantized)
        logs = {"reconstruction": nats, "commitment": commitment, "codes_in_use": codebook.in_use()}
        return Reconstruction(location, nats, commitment, logs)


def codebook_of(nets: Nets) -> Codebook:
    """Return the net "codebook", with its type."""
    return cast(Codebook, nets["codebook"])


def grid_of(nets: Nets) -> tuple[int, int]:
    """Return the height and width of an image's codes."""
    decoder = cast(Decoder, nets["decoder"])
    return decoder.grid, decoder.grid


def straight_through(features: Tensor, quantized: Tensor) -> Tensor:
    """Return the quantized vectors; their gradient goes to the features as if they were these."""
    return features + (quantized - features).detach()


def move_codebook(nets: Nets, world: World) -> None:
    """Make the codebook's step on the batch that the loss saw, over all ranks (a collective operation)."""
    codebook = codebook_of(nets)
    statistics = codebook.statistics(world.rank, world.size)
    world.average(statistics)
    codebook.update(*statistics)
