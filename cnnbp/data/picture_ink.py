"""The ink on a picture: what stands out from the paper, its shade and its noise."""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polygrid2d, polyval2d

from cnnbp.errors import UserError

# grey levels of 255 between paper and ink below which a picture counts as blank
FAINTEST = 16
# share of the strongest ink from which a pixel counts as ink
EDGE = 0.2
# tiles along each side of a picture, whose medians show where the paper is
TILES = 8
# of the polynomial that the paper's grey levels follow; a vignette is one of degree 4
DEGREE = 4
# share of the contrast up to which noise needs no smoothing
QUIET = 0.04


class Ink(NamedTuple):
    """The ink of a picture, in 0..1 on 0, float32 (H, W).

    Attributes:
        coarse: smoothed until the noise of the paper is gone; it tells where the ink is.
        fine: as sharp as the picture allows.
    """

    coarse: np.ndarray
    fine: np.ndarray


def find_ink(grey: np.ndarray) -> Ink:
    """Separate the ink from the paper, be it dark on bright or bright on dark.

    Args:
        grey: grey levels 0..255, float32 (H, W).

    Raises:
        UserError: the picture is blank.
    """
    radius, tolerance = _smoothing(grey)
    smooth = _mean_around(grey, radius)
    paper = _paper(smooth, tolerance)
    coarse = _above_noise(smooth - paper)
    if coarse.max() < FAINTEST:
        raise UserError("no digit found (the image is blank)")
    coarse = coarse / coarse.max()
    # smoothed less than a thirtieth of a small digit's side
    fine_radius = min(radius, min(grey.shape) // 80)
    if fine_radius == radius:
        return Ink(coarse, coarse)
    difference = _mean_around(grey, fine_radius) - paper
    empty = difference[coarse == 0]
    sign = np.sign(np.sum(difference[coarse > EDGE]))
    fine = (sign * difference - 2 * empty.std()).clip(0)
    return Ink(coarse, fine / fine.max())


def _smoothing(grey: np.ndarray) -> tuple[int, float]:
    """The radius of the mean that quietens the noise, and how far noise then reaches.

    Returns:
        the radius in pixels, 0 where there is little noise, and a number of grey levels.
    """
    low, high = np.percentile(grey, (1, 99))
    quiet = QUIET * (high - low)
    largest = max(1, min(grey.shape) // 40)
    noise = quiet
    for radius in range(largest + 1):
        smooth = _mean_around(grey, radius)
        # of three pixels whose means share none; a slope has no such differences
        lag = 2 * radius + 1
        bends = smooth[:, 2 * lag :] - 2 * smooth[:, lag:-lag] + smooth[:, : -2 * lag]
        # of normal noise the standard deviation
        noise = 0.605 * np.median(np.abs(bends)) if bends.size else 0
        if noise <= quiet:
            break
    return radius, 3 * noise + quiet


def _mean_around(grey: np.ndarray, radius: int) -> np.ndarray:
    """The mean over the square of `2 radius + 1` pixels around each, as far as it is inside."""
    for axis in (0, 1):
        if radius == 0:
            break
        sums = np.insert(np.cumsum(grey, axis, dtype=np.float64), 0, 0, axis)
        places = np.arange(grey.shape[axis])
        first = (places - radius).clip(0)
        last = (places + radius + 1).clip(max=len(places))
        count = np.expand_dims(last - first, 1 - axis)
        grey = ((sums.take(last, axis) - sums.take(first, axis)) / count).astype(np.float32)
    return grey


def _paper(grey: np.ndarray, tolerance: float) -> np.ndarray:
    """Grey levels of the paper, float32 (H, W).

    As a rule the border is empty. A frame, a vignette or squared paper spoils it.
    """
    paper = _paper_of_border(grey)
    near = np.abs(grey - paper) <= tolerance
    if _border(near).mean() >= 0.7 and near.mean() > 0.35:
        return paper
    return _paper_of_tiles(grey)


def _paper_of_tiles(grey: np.ndarray) -> np.ndarray:
    """Grey levels of the paper: a surface through the medians of tiles, most of them empty."""
    edges = [np.linspace(0, length, min(TILES, length) + 1).astype(int) for length in grey.shape]
    places, medians = [], []
    for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True):
        for left, right in zip(edges[1][:-1], edges[1][1:], strict=True):
            places.append(((top + bottom - 1) / 2, (left + right - 1) / 2))
            medians.append(np.median(grey[top:bottom, left:right]))
    return _surface(grey.shape, np.array(places), np.array(medians), DEGREE)


def _paper_of_border(grey: np.ndarray) -> np.ndarray:
    """Grey levels of the paper: a plane through the border, most of which is empty."""
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    return _surface(grey.shape, np.argwhere(border), grey[border], 1)


def _surface(
    shape: tuple[int, ...], places: np.ndarray, levels: np.ndarray, degree: int
) -> np.ndarray:
    """A polynomial surface, float32 of `shape`, through most of the levels at places (N, 2)."""
    down, across = (np.linspace(-1, 1, length) for length in shape)
    y = np.interp(places[:, 0], np.arange(shape[0]), down)
    x = np.interp(places[:, 1], np.arange(shape[1]), across)
    coefficients = np.zeros((degree + 1, degree + 1))
    fitted = np.full(len(levels), np.median(levels))
    # a stiff surface tells the outliers, which are ink, from the paper; then a supple one fits it
    for own_degree in (min(2, degree),) * 4 + (degree,) * 3:
        i, j = np.nonzero(np.add.outer(range(own_degree + 1), range(own_degree + 1)) <= own_degree)
        terms = y[:, None] ** i * x[:, None] ** j
        distance = np.abs(levels - fitted)
        near = distance <= 2.5 * np.median(distance) + 1
        coefficients[i, j] = np.linalg.lstsq(terms[near], levels[near])[0]
        fitted = polyval2d(y, x, coefficients)
    return polygrid2d(down, across, coefficients).astype(np.float32)


def _above_noise(difference: np.ndarray) -> np.ndarray:
    """What stands out from the noise of the paper, in grey levels, from differences to it."""
    # dark ink or bright: in the sum of cubes little strong ink outweighs much faint shade
    ink = difference * np.sign(np.sum(difference.astype(np.float64) ** 3))
    # three standard deviations of normal noise, by its lower quarter: ink is seldom more than half
    noise = 9.4 * np.percentile(np.abs(difference), 25)
    return (ink - noise).clip(0)


def _border(values: np.ndarray) -> np.ndarray:
    """The outermost pixels."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
