"""Augmentation of the training data: what it says of an image is true of the data, so generators learn it too."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pipeline.core.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """flip: mirror every second image, left to right. crop: shift by up to that many pixels each way.
    rotation: turn by up to that many degrees each way. What comes in from outside is the mirrored border.
    """

    flip: bool = False
    crop: int = 0
    rotation: float = 0.0

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """(n, c, h, w) to the same; each image by its own random numbers."""
        if self.flip:
            mirrored = noise.uniform("flip", 1, 1, 1) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        if self.crop or self.rotation:
            images = self._moved(images, noise)
        return images

    def _moved(self, images: Tensor, noise: Noise) -> Tensor:
        """One resampling for both; a shift of whole pixels alone reads each pixel exactly."""
        angle = (noise.uniform("rotation") * 2 - 1) * math.radians(self.rotation)
        shift = (noise.integers("crop", 2 * self.crop + 1, 2) - self.crop) * (2 / images.shape[-1])
        cosine, sine = angle.cos(), angle.sin()
        rows = (torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1))
        grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
