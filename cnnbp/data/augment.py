"""Augmentation of a whole batch at a time, on the batch's device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class Augment:
    """Distorts each image by its own random amounts, and erases a rectangle of it.

    All distortions are one interpolation.

    Args:
        degrees: rotations are uniform in [-degrees, degrees].
        shift: shifts are uniform in [-shift, shift] pixels, in each direction.
        scale: factors are uniform in [1 - scale, 1 + scale].
        shear: angles of the shear are uniform in [-shear, shear] degrees.
        elastic: standard deviation in pixels of the elastic distortion, in each direction; 0
            leaves it out.
        smoothness: standard deviation in pixels of the Gaussian that smooths the distortion.
        erase: sides of the rectangle are uniform in [0, erase] pixels; 0 leaves it out.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
        smoothness: float = 4.0,
        erase: float = 0.0,
    ):
        self.ranges = (math.radians(degrees), scale, shift, shift, math.radians(shear))
        self.elastic, self.smoothness, self.erase = elastic, smoothness, erase

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N, C, S, S), in [0, 255], to the same shape; 0 outside and where erased."""
        draws = torch.empty(5, len(images), device=images.device).uniform_(-1, 1)
        ranges = zip(draws, self.ranges, strict=True)
        angle, growth, right, down, shear = (draw * most for draw, most in ranges)
        field = distortion(images, self.smoothness) * self.elastic if self.elastic else None
        images = warp(images, angle, 1 + growth, right, down, shear, field)
        if self.erase:
            height, width, row, column = torch.rand(4, len(images), device=images.device)
            side = images.shape[-1]
            images = erase(
                images, height * self.erase, width * self.erase, row * side, column * side
            )
        return images


def warp(
    images: Tensor,
    angle: Tensor,
    factor: Tensor,
    right: Tensor,
    down: Tensor,
    shear: Tensor,
    field: Tensor | None,
) -> Tensor:
    """Turn each image anticlockwise, enlarge, shift and shear it about its centre, and distort it.

    Args:
        images: (N, 1, S, S).
        angle, shear: in radians, (N,), as are all the following.
        right, down: in pixels.
        field: from where, in pixels to the right and down of it, each pixel is taken, (N, S, S, 2).
    """
    # affine_grid works in units of half an image
    pixel = 2 / images.shape[-1]
    cosine, sine, slope = angle.cos() / factor, angle.sin() / factor, shear.tan()
    rows = [
        cosine,
        cosine * slope - sine,
        -right * pixel,
        sine,
        sine * slope + cosine,
        -down * pixel,
    ]
    grid = F.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False
    )
    if field is not None:
        grid = grid.add_(field, alpha=pixel)
    # linear interpolation would take a fifth of the images' gradients, and a network that has
    # learnt blurred digits is misled by sharp ones
    return F.grid_sample(images, grid, mode="bicubic", align_corners=False).clamp_(0, 255)


def distortion(images: Tensor, smoothness: float) -> Tensor:
    """Draw a smooth field (N, S, S, 2) of mean 0 and variance 1.

    Normal noise, smoothed by a Gaussian in both directions.
    Source: Simard, Steinkraus and Platt, 2003, section 2.
    """
    side = images.shape[-1]
    place = torch.arange(side, device=images.device)
    kernel = (-(place[:, None] - place).square() / (2 * smoothness**2)).exp()
    # keeps the variance, at the edges too
    kernel = kernel / kernel.norm(dim=1, keepdim=True)
    noise = torch.randn(2, len(images), side, side, device=images.device)
    return (kernel @ noise @ kernel.T).permute(1, 2, 3, 0)


def erase(images: Tensor, height: Tensor, width: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Set a rectangle of each image to 0 (DeVries and Taylor, 2017).

    Args:
        images: (N, 1, S, S).
        height, width, row, column: the rectangle's sides and centre in pixels, (N,); it may reach
            outside.
    """
    centres = torch.arange(images.shape[-1], device=images.device) + 0.5
    rows = (centres - row[:, None]).abs() < height[:, None] / 2
    columns = (centres - column[:, None]).abs() < width[:, None] / 2
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
