"""A user's picture of a digit, prepared as the digits of MNIST were."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.files import refuse_pipe

# sides of MNIST's pictures, and of the box that the ink fits
FIELD, BOX = 28, 20

# a larger picture is averaged down: faster, less noise, and 20 x 20 is all that is wanted
WORKING_SIZE = 400
# grey levels of 255 between paper and ink below which a picture counts as blank
FAINTEST = 16
# share of the strongest ink from which a pixel counts for the bounding box
EDGE = 0.2
# share of the ink that may lie beyond each side of the bounding box
DUST = 0.002


def load(path: str | Path) -> Tensor:
    """Read a picture of one digit and `prepare` it: uint8 (28, 28), ink bright on 0.

    Raises:
        UserError: names the file; it is not a picture, too large to be one of a digit, damaged or
            blank.
    """
    refuse_pipe(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{path}: too many pixels for a picture of a digit; make it smaller"
        ) from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that can be read; use PNG or JPEG") from None
    except Exception as error:
        # Pillow's decoders raise nearly anything on a damaged file
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None
    try:
        return prepare(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def prepare(image: Image.Image) -> Tensor:
    """Turn a picture of one digit, dark or bright, of any size and mode, into one like MNIST's.

    Returns:
        (28, 28), uint8: the ink is bright on 0, fits a 20 x 20 box, and has its centre of mass on
        pixel (14, 14) as far as it fits.

    Raises:
        UserError: the picture is blank, or its colours cannot be turned into grey.
    """
    ink = _ink(_grey(image))
    (left, right), (top, bottom) = (_extent((ink * (ink > EDGE)).sum(axis)) for axis in (0, 1))
    scale = BOX / max(right - left, bottom - top)
    size = [max(1, round(scale * length)) for length in (right - left, bottom - top)]
    fitted = Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom))
    fitted = np.asarray(fitted).clip(0, 1)
    # thin strokes have grown faint
    fitted = fitted / fitted.max()
    return torch.from_numpy((255 * _centred(fitted)).round().astype(np.uint8))


def _grey(image: Image.Image) -> np.ndarray:
    """Grey levels 0..255, float32 (H, W), at most about WORKING_SIZE pixels wide and high."""
    # cameras store how they were held, not turned pixels
    image = ImageOps.exif_transpose(image)
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            grey = _stretched(image)
        elif image.has_transparency_data:
            grey = _flattened(image.convert("RGBA"))
        else:
            grey = np.asarray(image.convert("L"), np.float32)
    except ValueError:
        raise UserError(
            f"its colours ({image.mode}) cannot be turned into grey; save it as RGB"
        ) from None
    factor = -(-max(grey.shape) // WORKING_SIZE)
    return np.asarray(Image.fromarray(grey).reduce(factor))


def _stretched(image: Image.Image) -> np.ndarray:
    """Grey levels 0..255 of a picture whose mode has no fixed range: its own range is used."""
    grey = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    # a picture of one level has no range to divide by
    unit = 255 / max(np.ptp(grey), 1e-30)
    return ((grey - grey.min()) * unit).astype(np.float32)


def _flattened(image: Image.Image) -> np.ndarray:
    """Grey levels 0..255, float32 (H, W), of a transparent picture (RGBA) laid on paper."""
    grey = np.asarray(image.convert("L"), np.float32)
    alpha = np.asarray(image.getchannel("A"), np.float32) / 255
    opaque = grey[alpha >= 0.98 * alpha.max()]
    paper = 0 if opaque.mean() > 127 else 255
    left, top, right, bottom = image.getchannel("A").getbbox() or (0, 0, 1, 1)
    fills_its_box = alpha.sum() > 0.9 * (right - left) * (bottom - top)
    # no bare ink, but a sheet with the digit on it: its colour goes on where it ends
    if fills_its_box and np.ptp(opaque) > 64:
        paper = np.median(opaque)
    return paper + (grey - paper) * alpha


def _ink(grey: np.ndarray) -> np.ndarray:
    """Ink in 0..1 on 0, float32 (H, W): what stands out from the paper and its noise."""
    paper, noise = _paper(grey)
    ink = grey - paper
    # dark ink or bright: in the sum of cubes little strong ink outweighs much faint shade
    ink = ink * np.sign(np.sum(ink**3))
    ink = (ink - noise).clip(0)
    if ink.max() < FAINTEST:
        raise UserError("no digit found (the image is blank)")
    return ink / ink.max()


def _paper(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """Grey levels of the empty paper, float32 (H, W), and their noise.

    The paper is the plane that fits the border, because light often slopes.
    """
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    height, width = (np.linspace(-1, 1, length, dtype=np.float32) for length in grey.shape)
    terms = np.stack([np.ones_like(grey), *np.meshgrid(height, width, indexing="ij")], axis=-1)
    paper = np.full_like(grey, np.median(grey[border]))
    # without the outliers: ink may touch the border
    for _ in range(3):
        distance = np.abs(grey - paper)[border]
        # three standard deviations of normal noise
        noise = 4.5 * np.median(distance)
        near = distance <= noise
        paper = terms @ np.linalg.lstsq(terms[border][near], grey[border][near])[0]
    return paper, noise


def _extent(profile: np.ndarray) -> tuple[int, int]:
    """First and one past the last position of the ink, less the outermost specks of dust."""
    share = np.cumsum(profile, dtype=np.float64)
    share /= share[-1]
    first = np.searchsorted(share, DUST, side="right")
    last = np.searchsorted(share, 1 - DUST)
    return int(first), int(last) + 1


def _centred(ink: np.ndarray) -> np.ndarray:
    """Put ink (at most 20 x 20) into a 28 x 28 field, its centre of mass near pixel (14, 14)."""
    field = np.zeros((FIELD, FIELD), np.float32)
    centres = [
        np.average(np.arange(length), weights=ink.sum(1 - axis))
        for axis, length in enumerate(ink.shape)
    ]
    top, left = (
        int(np.clip(round(FIELD / 2 - centre), 0, FIELD - length))
        for centre, length in zip(centres, ink.shape, strict=True)
    )
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field
