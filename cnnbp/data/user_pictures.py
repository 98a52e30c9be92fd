"""A user's picture of a digit, prepared as the digits of MNIST were."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cnnbp.data.picture_files import open_picture
from cnnbp.data.picture_ink import EDGE, find_ink
from cnnbp.data.picture_lines import without_lines
from cnnbp.data.picture_parts import find_parts, frames
from cnnbp.data.picture_strokes import spread, thickened
from cnnbp.errors import UserError

# sides of MNIST's pictures, and of the box that the ink fits
FIELD, BOX = 28, 20

# a larger picture is averaged down: faster, less noise, and 20 x 20 is all that is wanted
WORKING_SIZE = 400
# share of the ink that may lie beyond each side of the bounding box
DUST = 0.002


# left, top, right, bottom in pixels of a picture that is held upright
Box = tuple[int, int, int, int]


class Digit(NamedTuple):
    """A digit found on a picture.

    Attributes:
        pixels: (28, 28), uint8: the ink is bright on 0, fits a 20 x 20 box, and has its centre of
            mass on pixel (14, 14) as far as it fits.
        box: where it is on the picture.
    """

    pixels: Tensor
    box: Box


def load(path: str | Path) -> Tensor:
    """Read a picture of one digit and `prepare` it: uint8 (28, 28), ink bright on 0.

    Raises:
        UserError: names the file; see `load_digits`.
    """
    return largest(load_digits(path)).pixels


def load_digits(path: str | Path) -> list[Digit]:
    """Read a picture and `find_digits` on it.

    Raises:
        UserError: names the file; it is not a picture, too large to be one of a digit, damaged or
            blank.
    """
    image = open_picture(path)
    try:
        return find_digits(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def prepare(image: Image.Image) -> Tensor:
    """Turn a picture of one digit, dark or bright, of any size and mode, into one like MNIST's.

    Returns:
        `Digit.pixels` of the largest digit, (28, 28), uint8.

    Raises:
        UserError: the picture is blank, or its colours cannot be turned into grey.
    """
    return largest(find_digits(image)).pixels


def largest(digits: Sequence[Digit]) -> Digit:
    """The digit whose box is the largest."""

    def size(digit: Digit) -> int:
        left, top, right, bottom = digit.box
        return (right - left) * (bottom - top)

    return max(digits, key=size)


def find_digits(image: Image.Image) -> list[Digit]:
    """Find the digits on a picture, in the order of reading, each made like one of MNIST's.

    Raises:
        UserError: the picture is blank, or its colours cannot be turned into grey.
    """
    grey, factor = _grey(image)
    coarse, fine = find_ink(grey)
    free = ~_around(frames(coarse, EDGE))
    coarse, fine = without_lines(coarse * free, fine * free, EDGE)
    if coarse.max() < EDGE:
        raise UserError("no digit found (nothing but lines)")
    labels, parts = find_parts(coarse, EDGE)
    digits = []
    for part in parts:
        own = fine * _around(np.isin(labels, part.labels))
        left, top, right, bottom = part.box
        box = (factor * left, factor * top, factor * right, factor * bottom)
        digits.append(Digit(_fitted(own), box))
    return digits


def _around(mask: np.ndarray) -> np.ndarray:
    """The mask with its neighbours: the soft edges of its ink."""
    return spread(spread(mask, diagonal=True), diagonal=False)


def _fitted(ink: np.ndarray) -> Tensor:
    """Ink of one digit as (28, 28), uint8."""
    ink = thickened(ink, EDGE, BOX)
    (left, right), (top, bottom) = (_extent((ink * (ink > EDGE)).sum(axis)) for axis in (0, 1))
    scale = BOX / max(right - left, bottom - top)
    size = [max(1, round(scale * length)) for length in (right - left, bottom - top)]
    fitted = Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom))
    fitted = np.asarray(fitted).clip(0, 1)
    # thin strokes have grown faint
    fitted = fitted / fitted.max()
    return torch.from_numpy((255 * _centred(fitted)).round().astype(np.uint8))


def _grey(image: Image.Image) -> tuple[np.ndarray, int]:
    """Grey levels 0..255, float32 (H, W), of about WORKING_SIZE squared pixels at most.

    Returns:
        the levels, and how many pixels of the picture each stands for along a side.
    """
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
    factor = max(1, math.ceil(math.sqrt(grey.size) / WORKING_SIZE))
    return np.asarray(Image.fromarray(grey).reduce(factor)), factor


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
