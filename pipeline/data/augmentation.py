"""Augmentation of the training images.

The generator learns the augmented distribution: with flip=True it generates flipped images too. For augmentation that
does not leak into the generator see nets/critic_augment.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pipeline.core.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random flips, shifts and rotations; pixels from beyond the border are those of the reflected image.

    Attributes:
        flip: flip an image left to right with probability 1/2.
        crop: shift by up to this many pixels in each direction.
        rotation: rotate by up to this many degrees in each direction.
    """

    flip: bool = False
    crop: int = 0
    rotation: float = 0.0

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Augment images (n, c, h, w), each with random numbers of its own."""
        if self.flip:
            flipped = noise.uniform("flip", 1, 1, 1) < 0.5
            images = torch.where(flipped, images.flip(3), images)
        if self.crop or self.rotation:
            images = self._shifted_and_rotated(images, noise)
        return images

    def _shifted_and_rotated(self, images: Tensor, noise: Noise) -> Tensor:
        """Shift and rotate with a single bilinear resampling, which is exact for shifts alone."""
        angle = (noise.uniform("rotation") * 2 - 1) * math.radians(self.rotation)
        shift = (noise.integers("crop", 2 * self.crop + 1, 2) - self.crop) * (2 / images.shape[-1])
        cosine, sine = angle.cos(), angle.sin()
        rows = (torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1))
        grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
