"""The strokes of a digit on a picture: how thick they are, and hairlines made thicker."""

import numpy as np

# widths of strokes where a digit fills 20 pixels: thinner ones are thickened, and to what.
# Of MNIST's the mean is 2.3, and one in twenty is thinner than 1.5.
THIN, PEN = 1.5, 2.0


def thickened(ink: np.ndarray, edge: float, box: int) -> np.ndarray:
    """Make hairlines as thick as a pen's strokes.

    Args:
        ink: of one digit, float32 (H, W), in 0..1.
        edge: what counts as ink.
        box: the side that the digit will be scaled to.

    Returns:
        The ink itself, or thicker and with room around it.
    """
    mask = np.pad(ink > edge, 1)
    rows, columns = mask.nonzero()
    scale = box / (1 + max(np.ptp(rows), np.ptp(columns)))
    sides = sum(int(np.diff(mask, axis=axis).sum()) for axis in (0, 1))
    # strokes of all directions have 4 / pi times as many pixels' sides as upright ones
    width = 8 / np.pi * float(ink[mask[1:-1, 1:-1]].sum()) / sides
    if width * scale >= THIN:
        return ink
    radius = round((PEN / scale - width) / 2)
    ink = np.pad(ink, radius)
    for step in range(radius):
        # by turns, so that a dot grows round
        ink = spread(ink, diagonal=step % 2 == 1)
    return ink


def spread(ink: np.ndarray, diagonal: bool) -> np.ndarray:
    """The greatest of each pixel and its four, or with the diagonal ones eight, neighbours."""
    tall = ink.copy()
    tall[1:] = np.maximum(tall[1:], ink[:-1])
    tall[:-1] = np.maximum(tall[:-1], ink[1:])
    middle = tall.copy() if diagonal else ink
    wide = tall
    wide[:, 1:] = np.maximum(wide[:, 1:], middle[:, :-1])
    wide[:, :-1] = np.maximum(wide[:, :-1], middle[:, 1:])
    return wide
