"""What a network is built from, as one value each: the data's shape, widths, normalization, classes."""

from dataclasses import dataclass

from pipeline.nets.layers import Conditioning, NormName, Upsampling, doublings, widths


@dataclass(frozen=True, kw_only=True)
class NetShape:
    """What the named generators and critics have in common.

    Attributes:
        channels: of the images.
        size: of the images, pixels.
        width: channels of the layer of the highest resolution; of a perceptron, units of a layer.
        norm_name: normalization.
        spectral: whether the layers have spectral norm.
        classes: of the labels; 0: the net does not see them.
    """

    channels: int
    size: int
    width: int
    norm_name: NormName = "batch"
    spectral: bool = False
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class GeneratorShape(NetShape):
    """A generator: (n, latent) -> (n, channels, size, size).

    Attributes:
        latent: dimensions of the latents.
        upsampling: how the resolution is doubled.
    """

    latent: int
    upsampling: Upsampling = "transposed"


@dataclass(frozen=True, kw_only=True)
class CriticShape(NetShape):
    """A critic: (n, channels, size, size) -> (n, outputs).

    Attributes:
        outputs: numbers per image.
        conditioning: how the label is used, if there are classes.
    """

    outputs: int = 1
    conditioning: Conditioning = "projection"

    @property
    def concatenated(self) -> int:
        """The classes whose label is concatenated to the images."""
        return self.classes if self.conditioning == "concat" else 0

    @property
    def projected(self) -> int:
        """The classes whose label is projected on the last features."""
        return self.classes if self.conditioning == "projection" else 0


@dataclass(frozen=True, kw_only=True)
class PyramidShape:
    """What the large generators and critics have in common: maps that double from 4 .. 15 pixels to the data's size.

    Attributes:
        channels: of the images.
        size: of the images, pixels.
        width: channels at the data's size, doubling with each halving.
        max_width: channels at most.
        classes: of the labels; 0: the net does not see them.
    """

    channels: int
    size: int
    width: int
    max_width: int
    classes: int = 0

    @property
    def base(self) -> int:
        """Pixels of the smallest map."""
        return doublings(self.size)[0]

    @property
    def steps(self) -> int:
        """How often the smallest map doubles."""
        return doublings(self.size)[1]

    def widths(self) -> list[int]:
        """Return the channels of each level, the smallest map's first: steps + 1 of them."""
        return widths(self.steps, self.width, self.max_width)
