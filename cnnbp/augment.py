"""Augmentation of a whole batch at a time, on the batch's device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class Affine:
    """Rotates, shifts and scales each image by its own random amount, about the centre.

    Args:
        degrees: rotations are uniform in [-degrees, degrees].
        shift: shifts are uniform in [-shift, shift] pixels, in each direction.
        scale: factors are uniform in [1 - scale, 1 + scale].
    """

    def __init__(self, degrees: float = 0.0, shift: float = 0.0, scale: float = 0.0):
        self.degrees, self.shift, self.scale = degrees, shift, scale

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N, 1, H, W) to the same shape, interpolated linearly, zero outside."""
        angle, factor, right, down = torch.empty(4, len(images), device=images.device).uniform_(-1, 1)
        angle = angle * math.radians(self.degrees)
        factor = 1 / (1 + factor * self.scale)
        cosine, sine = factor * angle.cos(), factor * angle.sin()
        # affine_grid works in units of half an image
        right, down = right * (2 * self.shift / images.shape[-1]), down * (2 * self.shift / images.shape[-2])
        rows = [cosine, -sine, right, sine, cosine, down]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
