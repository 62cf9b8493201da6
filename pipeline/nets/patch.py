"""The networks of image-to-image translation: a residual generator and a critic of patches (Johnson et al.,
arXiv:1603.08155; Isola et al., arXiv:1611.07004), at the sizes of CycleGAN's appendix 7.2, and its pool of images.

Legend: n samples, c channels, s image size, w width, k pool size.
"""

import torch
from torch import Tensor, nn

from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.nets.initialization import initialize_dcgan
from pipeline.nets.layers import NormName, Upsampling, as_weights_lie, norm, refused_size, upsample


class Residual(nn.Module):
    """(n, w, s, s) to the same: two convolutions of 3 x 3, mirrored at the border."""

    def __init__(self, width: int, norm_name: NormName) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, padding_mode="reflect"),
            norm(norm_name, width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, padding_mode="reflect"),
            norm(norm_name, width),
        )

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layers(images)


class Translator(nn.Module):
    """(n, c, s, s) -> (n, c, s, s) in [-1, 1]: two downsamplings, residual blocks, two upsamplings; s = 4 k."""

    def __init__(
        self, *, channels: int, size: int, width: int, blocks: int, norm_name: NormName, upsampling: Upsampling
    ) -> None:
        super().__init__()
        if size % 4:
            raise refused_size(size, lambda other: other % 4 == 0, "is not a multiple of 4")
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 7, 1, 3, padding_mode="reflect"),
            *_active(norm_name, width),
        ]
        for factor in (1, 2):
            layers += [nn.Conv2d(factor * width, 2 * factor * width, 3, 2, 1), *_active(norm_name, 2 * factor * width)]
        layers += [Residual(4 * width, norm_name) for _ in range(blocks)]
        for factor in (4, 2):
            before, after = factor * width, factor * width // 2
            layers += [upsample(upsampling, before, after), *_active(norm_name, after)]
        layers += [nn.Conv2d(width, channels, 7, 1, 3, padding_mode="reflect"), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialize_dcgan(self)

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.layers(as_weights_lie(images, self.layers))
        return translated


class PatchCritic(nn.Module):
    """(n, c, s, s) -> (n, 1, h, w), a score for each patch; steps 3 sees patches of 70 x 70, 2 of 34, 1 of 16."""

    def __init__(self, *, channels: int, size: int, width: int, steps: int, norm_name: NormName) -> None:
        super().__init__()
        if size < least_size(steps):
            raise ValueError(f"patch_steps: {steps} need images of {least_size(steps)} pixels or more, not {size}")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        before = width
        for number in range(1, steps + 1):
            after, stride = width * min(2**number, 8), 2 if number < steps else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1), norm(norm_name, after), nn.LeakyReLU(0.2, inplace=True)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))
        initialize_dcgan(self)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(as_weights_lie(images, self.layers))
        return scores


def least_size(steps: int) -> int:
    """Return the size of the smallest images of which a critic of patches scores one."""
    return 3 * 2**steps


class ImagePool(nn.Module):
    """Earlier images of a generator: its critic sees one of them for every second image.

    So the critic does not forget what the generator no longer makes (Shrivastava et al., arXiv:1612.07828). A shown
    image gives its place to the new one. One pool for all ranks, held by each: ``absorb`` gathers what they made.
    Its buffers are ``images`` (k, c, s, s) and ``filled``, how many of them there are.
    """

    images: Tensor
    filled: Tensor

    def __init__(self, count: int, channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(count, channels, size, size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._made: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, made: Tensor, noise: Noise) -> Tensor:
        """Return each image itself or one of the pool, (n, c, s, s)."""
        count = len(self.images)
        if count == 0:
            return made
        slots = noise.ids % count  # of one batch all different, as long as it is no larger than the pool
        exchanged = (noise.uniform("pool") < 0.5) & (self.filled >= count)
        self._made = (made.detach(), slots, exchanged)
        return torch.where(exchanged[:, None, None, None], self.images[slots], made)

    @torch.no_grad()
    def absorb(self, world: World) -> None:
        """Take in the images of the last forward pass, of all ranks in their order (a collective operation)."""
        if self._made is None:
            return
        made, slots, exchanged = (world.gather(tensor) for tensor in self._made)
        number, count = torch.arange(len(made), device=made.device), len(self.images)
        fits, full = self.filled + number < count, self.filled >= count
        target = torch.where(full, slots, self.filled + number)
        writer = torch.full((count + 1,), -1, device=made.device)  # the last image for each place; one place for none
        writer.scatter_reduce_(0, torch.where(torch.where(full, exchanged, fits), target, count), number, "amax")
        chosen = writer[:count]
        new = made[chosen.clamp(min=0)].to(self.images.dtype)
        self.images.copy_(torch.where((chosen >= 0)[:, None, None, None], new, self.images))
        self.filled.copy_((self.filled + len(made)).clamp(max=count))
        self._made = None


def _active(norm_name: NormName, channels: int) -> list[nn.Module]:
    return [norm(norm_name, channels), nn.ReLU(inplace=True)]
