"""Ruled lines and frames, taken off the ink of a picture."""

import numpy as np

# share of a picture's side that a line has to run along
LENGTH = 0.88
# and where a stroke lies beside it
WHOLE = 0.97
# share of a picture's side above which it is a stroke, not a line
THICKNESS = 0.05
# rise of a line over its run
STEEPEST = 0.09


def without_lines(ink: np.ndarray, fine: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Take off the long thin lines, across and down.

    Args:
        ink, fine: in 0..1, float32 (H, W); the lines are found on `ink`, and taken off both.
        edge: what counts as ink.

    Returns:
        Both without lines.
    """
    for _ in range(2):
        ink, fine = ink.T.copy(), fine.T.copy()
        slope, lines = _find_lines(ink > edge)
        for first, last in lines:
            ink, fine = (_without_line(layer, edge, slope, first, last) for layer in (ink, fine))
    return ink, fine


def _find_lines(mask: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    """The slope of the lines across, and of each its first and last row at the middle column.

    Each pixel votes for the lines through it (Hough, 1962).
    """
    height, width = mask.shape
    # a line may wind by a pixel
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    rows, columns = wide.nonzero()
    margin = int(STEEPEST * width) + 1
    step = 3 / max(width, 1)
    best = (0.0, np.zeros(height + 2 * margin))
    for k in range(int(STEEPEST / step) + 1):
        for slope in (k * step, -k * step):
            places = rows - _rise(slope, columns, width) + margin
            votes = np.bincount(places, minlength=height + 2 * margin) / width
            if votes.max(initial=0) > best[1].max(initial=0) + 0.01:
                best = (slope, votes)
    slope, votes = best
    # a line may be as thick as this, and votes reach a pixel further on both sides
    thickest = max(2, round(THICKNESS * min(height, width))) + 2
    lines = []
    for first, last in _runs(votes >= 0.7 * LENGTH):
        if votes[first:last].max() < LENGTH:
            continue
        if last - first <= thickest:
            lines.append((first - margin, last - margin))
            continue
        # beside a stroke as long as the stem of a 1, or a bow on a picture cut close
        for own_first, own_last in _runs(votes[first:last] >= WHOLE):
            if own_last - own_first <= thickest:
                lines.append((first + own_first - margin, first + own_last - margin))
    return slope, lines


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last place of each run of true values."""
    steps = np.diff(np.pad(mask, 1).astype(np.int8))
    return list(
        zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True)
    )


def _rise(slope: float, columns: np.ndarray, width: int) -> np.ndarray:
    """How many rows lower than at the middle column a line is, (N,), whole numbers."""
    return np.floor(slope * (columns - width // 2) + 0.5).astype(int)


def _without_line(ink: np.ndarray, edge: float, slope: float, first: int, last: int) -> np.ndarray:
    """Take one line off: what is left is what crosses it, and what is darker."""
    height, width = ink.shape
    columns = np.arange(width)
    rows = np.arange(first, last)[:, None] + _rise(slope, columns, width)
    inside = (rows >= 0) & (rows < height)
    rows = rows.clip(0, height - 1)
    band = ink[rows, columns]
    level = np.median(band.max(0))
    darker = ((band - level) / max(1 - level, 1e-6)).clip(0) if level < 0.8 else 0 * band
    above = np.where(rows[0] > 0, ink[(rows[0] - 1).clip(0), columns], 0)
    below = np.where(rows[-1] < height - 1, ink[(rows[-1] + 1).clip(max=height - 1), columns], 0)
    crossing = np.minimum(above, below)
    crossing = np.where(crossing > edge, crossing, 0)
    ink = ink.copy()
    ink[rows[inside], np.broadcast_to(columns, rows.shape)[inside]] = np.maximum(darker, crossing)[
        inside
    ]
    return ink
