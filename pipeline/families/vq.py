"""What methods on a grid of discrete codes share: the autoencoder with its codebook, and the codebook's step.

Legend: n samples, d dimensions of a code's vector, g x g grid of codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from pipeline.config import Count, Positive, PositiveFloat
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Nets
from pipeline.core.world import World
from pipeline.families.optimization import Optimized
from pipeline.families.vae import LIKELIHOODS, LikelihoodName, bound_in_bits, check_likelihood
from pipeline.nets.codebook import Codebook
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
