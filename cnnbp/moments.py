"""Digits made alike before they are looked at: upright, centred and of one size, by the moments of their ink."""

import torch
from torch import Tensor
from torch.nn import functional as F

SPREAD = 6.54  # root mean square distance in pixels of the ink from its centre, the mean over MNIST made upright


def normalise(images: Tensor) -> Tensor:
    """Shear each image so that it does not slant, centre its ink, and scale it to `SPREAD` (Casey, 1970).

    Map images (N, 1, S, S) of pixels from 0 to 255 to the same shape, float32, zero outside; an empty one stays so.
    """
    side = images.shape[-1]
    place = torch.arange(side, device=images.device) - (side - 1) / 2
    ink = images[:, 0].float()
    ink = ink / ink.sum((1, 2), keepdim=True).clamp(min=1)
    right, down = (ink.sum(1) * place).sum(1), (ink.sum(2) * place).sum(1)
    x, y = (place - right[:, None])[:, None, :], (place - down[:, None])[:, :, None]
    across, along, mixed = ((ink * product).sum((1, 2)) for product in (x * x, y * y, x * y))
    slant = mixed / along.clamp(min=1)
    spread = (across - slant * mixed + along).clamp(min=1).sqrt()
    factor = (spread / SPREAD)[:, None, None]
    rows = factor * place[:, None]
    columns = factor * place + slant[:, None, None] * rows
    grid = torch.stack([columns + right[:, None, None], (rows + down[:, None, None]).expand_as(columns)], 3)
    # grid_sample works in units of half an image
    return F.grid_sample(images.float(), grid * (2 / side), mode="bicubic", align_corners=False).clamp(0, 255)
