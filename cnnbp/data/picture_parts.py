"""The connected parts of a picture's ink, and which of them make a digit."""

from dataclasses import dataclass

import numpy as np

# share of the strongest ink that a part has to reach somewhere
DARKEST = 0.5
# share of the tallest part's height below which a part is a speck or a dash
SPECK = 0.4
# share of a digit's height from which something beside it is a piece of it
PIECE = 0.2
# share of a part's height from which another inside it is a digit in a ring, or in a frame
RINGED, HELD = 0.45, 0.2
# share of a frame's sides within which all of it lies
RIM = 0.15
# share of a picture's side within which a part on the border is no digit
MARGIN = 0.12


@dataclass
class Part:
    """Ink that hangs together, or pieces that make one digit: `labels` of pixels, and their box."""

    labels: list[int]
    left: int
    top: int
    right: int
    bottom: int
    pixels: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.right, self.bottom

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def contains(self, other: "Part") -> bool:
        """Whether the other's box lies within this one's."""
        return (
            self.left < other.left
            and self.top < other.top
            and self.right > other.right
            and self.bottom > other.bottom
        )

    def joined(self, other: "Part") -> "Part":
        """Both as one."""
        return Part(
            self.labels + other.labels,
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
            self.pixels + other.pixels,
        )


def find_parts(ink: np.ndarray, edge: float) -> tuple[np.ndarray, list[Part]]:
    """Find the digits on ink (H, W) in 0..1, in the order of reading.

    Returns:
        labels (H, W), whole numbers, 0 where there is no ink, and the parts.
    """
    labels = connected(ink > edge)
    strongest = np.zeros(labels.max() + 1)
    np.maximum.at(strongest, labels.ravel(), ink.ravel())
    parts = [part for part in _parts(labels) if strongest[part.labels[0]] >= DARKEST]
    parts = _inside(parts, ink.shape)
    parts = [part for part in parts if not _is_ring(part, parts)]
    parts = _whole(parts)
    return labels, _as_read(_without_specks(parts))


def frames(ink: np.ndarray, edge: float) -> np.ndarray:
    """Where on ink (H, W) there is a frame, a box around something that stands free in it."""
    labels = connected(ink > edge)
    parts = _parts(labels)
    found = np.zeros(ink.shape, bool)
    for part in parts:
        holds = [other for other in parts if part.contains(other)]
        if all(other.height < HELD * part.height for other in holds):
            continue
        own = labels[part.top : part.bottom, part.left : part.right] == part.labels[0]
        down, across = round(RIM * part.height), round(RIM * part.width)
        inner = own[down : part.height - down, across : part.width - across]
        if inner.sum() < 0.1 * part.pixels:
            found |= labels == part.labels[0]
    return found


def connected(mask: np.ndarray) -> np.ndarray:
    """Number the connected parts of a mask, with diagonal neighbours, from 1 in raster order."""
    labels = np.zeros(mask.shape, np.int32)
    # runs of a row, each joined with those of the row above that it touches (union-find)
    parents = [0]
    above = []
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    for row, steps in enumerate(np.diff(padded, axis=1)):
        starts, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
        runs = []
        for start, end in zip(starts, ends, strict=True):
            own = 0
            for other_start, other_end, other in above:
                if other_start <= end and start <= other_end:
                    other = _root(parents, other)
                    if own and own != other:
                        own, other = min(own, other), max(own, other)
                        parents[other] = own
                    else:
                        own = other
            if not own:
                own = len(parents)
                parents.append(own)
            labels[row, start:end] = own
            runs.append((start, end, own))
        above = runs
    roots = np.array([_root(parents, label) for label in range(len(parents))])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)[labels]


def _root(parents: list[int], label: int) -> int:
    while parents[label] != label:
        label = parents[label]
    return label


def _parts(labels: np.ndarray) -> list[Part]:
    """One part of each label."""
    rows, columns = labels.nonzero()
    own = labels[rows, columns]
    count = labels.max() + 1
    top, left = np.full(count, labels.shape[0]), np.full(count, labels.shape[1])
    bottom, right = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(top, own, rows)
    np.minimum.at(left, own, columns)
    np.maximum.at(bottom, own, rows + 1)
    np.maximum.at(right, own, columns + 1)
    pixels = np.bincount(own, minlength=count)
    return [
        Part([k], int(left[k]), int(top[k]), int(right[k]), int(bottom[k]), int(pixels[k]))
        for k in range(1, count)
    ]


def _inside(parts: list[Part], shape: tuple[int, ...]) -> list[Part]:
    """Without what lies along the border, such as a shadow, if something else is left."""
    height, width = shape
    across, down = MARGIN * width, MARGIN * height
    kept = []
    for part in parts:
        on_left = part.left == 0 and part.right <= across
        on_right = part.right == width and part.left >= width - across
        on_top = part.top == 0 and part.bottom <= down
        on_bottom = part.bottom == height and part.top >= height - down
        if not (on_left or on_right or on_top or on_bottom):
            kept.append(part)
    return kept or parts


def _is_ring(part: Part, parts: list[Part]) -> bool:
    """Whether a part is drawn around a digit; the dot in a zero is smaller."""
    return any(part.contains(other) and other.height >= RINGED * part.height for other in parts)


def _without_specks(parts: list[Part]) -> list[Part]:
    """Without specks and dashes, which are small beside the tallest part."""
    tallest = 0.0
    for part in parts:
        # not a long line
        if part.height > part.width / 3:
            tallest = max(tallest, part.height, part.width)
    # a part that lies on its side may be a digit too
    large = [part for part in parts if max(part.height, SPECK * part.width) >= SPECK * tallest]
    return large or parts


def _whole(parts: list[Part]) -> list[Part]:
    """Join the pieces of one digit: the bar of a 5, a stroke that broke."""
    waiting = sorted(parts, key=lambda part: -part.pixels)
    wholes = []
    while waiting:
        whole = waiting.pop(0)
        k = 0
        while k < len(waiting):
            if _belong(whole, waiting[k]):
                whole = whole.joined(waiting.pop(k))
                # what was too far away may touch the larger one
                k = 0
            else:
                k += 1
        wholes.append(whole)
    return wholes


def _belong(one: Part, other: Part) -> bool:
    """Whether two parts are pieces of one digit."""
    overlap = min(one.right, other.right) - max(one.left, other.left)
    shared = overlap / min(one.width, other.width)
    whole = max(one.bottom, other.bottom) - min(one.top, other.top)
    gap = (max(one.top, other.top) - min(one.bottom, other.bottom)) / whole
    low, high = sorted((one.height / whole, other.height / whole))
    if high < 0.6:
        # halves, not two lines of digits
        return shared > 0.5 and gap < 0.06
    if low < 0.6:
        smaller = min(one, other, key=lambda part: part.height)
        # not a speck
        return shared > 0.3 and gap < 0.15 and max(smaller.height, smaller.width) > PIECE * whole
    return shared > 0.8


def _as_read(parts: list[Part]) -> list[Part]:
    """Line by line, from left to right."""
    lines: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: part.top + part.bottom):
        middle = (part.top + part.bottom) / 2
        if lines and any(other.top < middle < other.bottom for other in lines[-1]):
            lines[-1].append(part)
        else:
            lines.append([part])
    return [part for line in lines for part in sorted(line, key=lambda part: part.left)]
