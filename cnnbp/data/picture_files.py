"""Picture files as images of a data set: opened, turned upright, and scaled to its size."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cnnbp.errors import UserError
from cnnbp.files import refuse_pipe

# modes of one channel
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(path: str | Path, with_pixels: bool = True) -> Image.Image:
    """Read a picture file.

    Args:
        with_pixels: else only what its head says: size and mode.

    Raises:
        UserError: names the file; it is not a picture, has too many pixels, or is damaged.
    """
    refuse_pipe(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if with_pixels:
                    picture.load()
                return picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: too many pixels; make the picture smaller") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that can be read; use PNG or JPEG") from None
    except Exception as error:
        # Pillow's decoders raise nearly anything on a damaged file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason})") from None


def read_image(path: str | Path, channels: int, side: int) -> np.ndarray:
    """Read a picture file as an image; see `as_image`.

    Raises:
        UserError: names the file.
    """
    picture = open_picture(path)
    try:
        return as_image(picture, channels, side)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def is_grey(picture: Image.Image) -> bool:
    """Whether a picture has no colours by its mode."""
    return picture.mode in GREY_MODES


def as_image(picture: Image.Image, channels: int, side: int) -> np.ndarray:
    """Turn a picture upright, crop it to a square about its middle, and scale it.

    A transparent picture is laid on white.

    Args:
        channels: 1 or 3.
        side: in pixels.

    Returns:
        (side, side) or (3, side, side), uint8.

    Raises:
        UserError: the picture has values without a range, which no image can be made of.
    """
    # cameras store how they were held, not turned pixels
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        # the upper eight of its sixteen bits
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UserError(f"its values ({picture.mode}) have no range; save it as 8-bit grey or RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    return pixels if channels == 1 else np.moveaxis(pixels, 2, 0)
