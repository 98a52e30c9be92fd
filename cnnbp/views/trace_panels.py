"""Where the parts of a trace lie on its picture: blocks of layers, and a panel for each."""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from cnnbp.views.trace import Trace, TracedComponent

# of the picture; all lengths below are in its pixels
WIDTH = 1920
# left and right of all
MARGIN = 40
# height of a panel
SIDE = 368
IMAGE_WIDTH = 224
# of all panels of maps
MAPS_WIDTH = 800
# so many maps may lie in one column
LONGEST_STRIP = 10
BARS_WIDTH = 190
# of one block
MOST_MAPS = 400
# that fit between the image and the probabilities
MOST_BLOCKS = 9


class Block(NamedTuple):
    """Components that share a panel, which shows the output of the last one."""

    name: str
    components: list[TracedComponent]


class Panel(NamedTuple):
    """The place of a block: left edge, width, and the side of one map in it."""

    block: Block
    left: float
    width: float
    map_side: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


def group_into_blocks(trace: Trace) -> list[Block]:
    """Group a layer with weights and what follows it in its module, up to the next such layer.

    The image and the logits have blocks of their own, and the loss has none. Of a network with
    many blocks some are left out, evenly spread.
    """
    image, *layers, logits, _ = trace.components
    groups: list[list[TracedComponent]] = []
    for layer in layers:
        if groups and not _starts_block(layer, groups[-1]):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    # a module with several blocks cannot give its name to each
    parents = [_parent(group[0]) for group in groups]
    blocks = [Block("image", [image])]
    for group, parent in zip(groups, parents, strict=True):
        name = parent if parents.count(parent) == 1 and parent else group[0].name
        blocks.append(Block(name, group))
    if len(groups) > MOST_BLOCKS:
        kept = np.linspace(1, len(groups), MOST_BLOCKS).round().astype(int)
        blocks = [blocks[0], *(blocks[index] for index in kept)]
    return [*blocks, Block("softmax", [logits])]


def _starts_block(layer: TracedComponent, group: Sequence[TracedComponent]) -> bool:
    """Whether a layer does not belong to the group of layers before it."""
    becomes_vector = is_vector(layer) and not is_vector(group[-1])
    has_weights = layer.macs > 0 and any(other.macs > 0 for other in group)
    return becomes_vector or has_weights or _parent(layer) != _parent(group[0])


def _parent(layer: TracedComponent) -> str:
    return layer.name.rpartition(".")[0]


def is_vector(component: TracedComponent) -> bool:
    """Whether the output is one value a channel, (C,) or (C, 1, 1)."""
    return component.output.numel() == len(component.output)


def place_panels(blocks: Sequence[Block], classes: int) -> list[Panel]:
    """Place blocks side by side, each as wide as its maps need.

    Args:
        classes: a vector of so many values is shown as bars.
    """
    trunk = []
    for block in blocks:
        if _shape_of(block, classes) == "maps":
            trunk.append(_map_count(block))
    rows = _rows_that_fit(trunk)
    sizes: list[tuple[float, float]] = []
    for block in blocks:
        shape = _shape_of(block, classes)
        if shape == "image":
            sizes.append((IMAGE_WIDTH, IMAGE_WIDTH))
        elif shape == "bars":
            sizes.append((BARS_WIDTH, BARS_WIDTH))
        elif shape == "strip":
            sizes.append((SIDE / LONGEST_STRIP, SIDE / LONGEST_STRIP))
        else:
            columns = -(-_map_count(block) // rows)
            sizes.append((columns * SIDE / rows, SIDE / rows))
    used = sum(width for width, _ in sizes)
    space = (WIDTH - 2 * MARGIN - used) / (len(sizes) - 1)
    panels, left = [], float(MARGIN)
    for block, (width, map_side) in zip(blocks, sizes, strict=True):
        panels.append(Panel(block, left, width, map_side))
        left += width + space
    return panels


def _shape_of(block: Block, classes: int) -> str:
    """How a block is shown: "image", "bars", "strip" (one column of maps) or "maps"."""
    last = block.components[-1]
    if not last.is_layer:
        return "image" if last.output.ndim == 3 else "bars"
    if len(last.output) != classes:
        return "maps"
    if is_vector(last):
        return "bars"
    return "strip" if classes <= LONGEST_STRIP else "maps"


def _map_count(block: Block) -> int:
    return min(len(as_maps(block.components[-1].output.numpy())), MOST_MAPS)


def as_maps(values: np.ndarray) -> np.ndarray:
    """Values as maps (C, H, W); a vector as one map that is about square, filled with NaN."""
    if values.ndim == 3 and values[0].size > 1:
        return values[:MOST_MAPS]
    side = int(np.ceil(np.sqrt(values.size)))
    rows = -(-values.size // side)
    square = np.full(rows * side, np.nan)
    square[: values.size] = values.flatten()
    return square.reshape(1, rows, side)


def _rows_that_fit(numbers: Sequence[int]) -> int:
    """The fewest rows of maps with which all panels fit into `MAPS_WIDTH`."""
    for rows in count(1):
        columns = sum(-(-number // rows) for number in numbers)
        if columns * SIDE / rows <= MAPS_WIDTH:
            return rows
    raise AssertionError("unreachable: more rows always take less width")
