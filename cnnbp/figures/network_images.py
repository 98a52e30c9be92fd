"""Filters and feature maps as pictures."""

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MOST_FILTERS = 64
# of a filter's pixels, and of a filter in pixels
LARGEST_ZOOM, LARGEST_FILTER = 8, 112


def filters(weight: Tensor) -> Image.Image:
    """Draw the first input channel of up to 64 filters (C, _, k, k), eight a row.

    Red stands for values above 0, blue for values below, white for 0.
    """
    values = weight[:MOST_FILTERS, :1].cpu().nan_to_num()
    values = values / values.abs().max().clamp(min=1e-12)
    red, green, blue = 1 - F.relu(-values), 1 - values.abs(), 1 - F.relu(values)
    zoom = min(LARGEST_ZOOM, max(1, LARGEST_FILTER // weight.shape[-1]))
    return _tiles(torch.cat([red, green, blue], 1), columns=8, zoom=zoom)


def feature_maps(images: Tensor, maps: Tensor) -> Image.Image:
    """Draw a column for each image (N, 1 or 3, S, S): itself in gray above its maps (N, C, H, W).

    Each row is a channel; black stands for 0 and below.
    """
    gray = to_gray(images.mean(1, keepdim=True))
    maps = maps.nan_to_num().clamp(min=0)
    maps = maps / maps.amax((0, 2, 3), keepdim=True).clamp(min=1e-12)
    # as large as fits into the image, with a black border
    zoom = max(1, min(gray.shape[-1] // maps.shape[-1], gray.shape[-2] // maps.shape[-2]))
    maps = maps.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    # maps that are larger than the image lose their border
    across, down = gray.shape[-1] - maps.shape[-1], gray.shape[-2] - maps.shape[-2]
    maps = F.pad(maps, (across // 2, across - across // 2, down // 2, down - down // 2))
    rows = torch.cat([gray, maps], 1).transpose(0, 1)
    return _tiles(rows.flatten(0, 1).unsqueeze(1), columns=len(images))


def to_gray(images: Tensor) -> Tensor:
    """Stretch images of any range to [0, 1]."""
    low, high = images.amin(), images.amax()
    return (images - low) / (high - low).clamp(min=1e-12)


def _tiles(images: Tensor, columns: int, zoom: int = 1) -> Image.Image:
    """Lay images (N, C, H, W) in [0, 1], of one channel or three, out row by row."""
    images = images.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    missing = -len(images) % columns
    # gray between them
    images = F.pad(images, (2, 0, 2, 0, 0, 0, 0, missing), value=0.5)
    # (rows, columns, C, H, W)
    rows = images.unflatten(0, (-1, columns))
    picture = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return Image.fromarray(picture.mul(255).byte().squeeze(-1).numpy())
