"""A trace as a picture: what comes out of each block, and below it the gradient there."""

from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnbp.figures.figure_file import figure
from cnnbp.views.trace import Trace, TracedComponent

# of the picture; all lengths below are in its pixels
WIDTH, HEIGHT, DPI = 1920, 1080, 120
# left and right of all
MARGIN = 40
# height of a panel
SIDE = 368
IMAGE_WIDTH = 224
# of all blocks between the image and the last convolution
MAPS_WIDTH = 800
BARS_WIDTH = 190
# upper edges of the panels
TOPS = {"forward": 206, "backward": 646}
COLOURS = {"forward": "viridis", "backward": "RdBu_r"}
# extremes would leave all other values pale
QUANTILES = (0.005, 0.995)


class Legend(NamedTuple):
    """The heading of a row of panels, and what the two ends of its colours mean."""

    heading: str
    low: str
    high: str


LEGENDS = {
    "forward": Legend("Forward: the output of each block", "lowest", "highest in the panel"),
    "backward": Legend(
        "Backward: the gradient of the loss at the output above",
        "more of it lowers the loss",
        "raises it",
    ),
}


class Box(NamedTuple):
    """The place of a block's panels: left edge, width, and the side of one map in it."""

    left: float
    width: float
    map_side: float


def draw_trace(trace: Trace, label: int, path: str | Path, title: str = "") -> None:
    """Draw a trace; each panel has its own range of colours."""
    with figure(path, WIDTH / DPI, HEIGHT / DPI) as axes:
        picture = TracePicture(axes, trace, label, title)
        last_of_block = {component.block: component for component in trace}
        for component in last_of_block.values():
            for direction in TOPS:
                picture.show(component, direction)


class TracePicture:
    """Axes over the whole picture, in pixels: a column a block, forward above backward."""

    def __init__(self, axes: Any, trace: Trace, label: int, title: str):
        self.axes, self.label, self.boxes = axes, label, block_boxes(trace)
        self.digit = trace[0].output[0]
        axes.figure.set_layout_engine("none")
        axes.set(position=(0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axes.axis("off")
        self.title = self._write(MARGIN, 30, title, ha="left", size=15, weight="bold")
        self.frame = axes.plot([], [], color="tab:orange", linewidth=3)[0]
        for block in self.boxes:
            self._write_heads(trace, block)
        for direction, top in TOPS.items():
            self._draw_legend(direction)
            for box, next_box in pairwise(self.boxes.values()):
                start = (box.left + box.width + 8, top + SIDE / 2)
                end = (next_box.left - 8, top + SIDE / 2)
                if direction == "backward":
                    start, end = end, start
                self._draw_arrow(start, end)
        middle = self.boxes["flatten"].left + BARS_WIDTH / 2
        self._draw_arrow(
            (middle, TOPS["forward"] + SIDE + 10), (middle, TOPS["backward"] + SIDE / 2 - 50)
        )

    def show(self, component: TracedComponent, direction: str) -> list[Any]:
        """Show the output or the gradient of a component in the place of its block.

        Returns:
            The matplotlib artists that it is drawn with.
        """
        is_forward = direction == "forward"
        values = component.output if is_forward else component.gradient
        if component.kind == "CrossEntropyLoss" and not is_forward:
            middle = self.boxes["flatten"].left + BARS_WIDTH / 2
            text = f"loss\n{component.output:.3g}"
            return [self._write(middle, TOPS[direction] + SIDE / 2, text, size=15)]
        if component.kind == "Flatten" and is_forward:
            return self._draw_bars(values.softmax(0).numpy(), component, direction, ".1%", "")
        if values.shape[1:] == (1, 1):
            form, note = (".2f", "orange: the label")
            if not is_forward:
                form, note = (".0e", "probability - target")
            return self._draw_bars(values.flatten().numpy(), component, direction, form, note)
        if values.ndim == 3:
            return self._draw_maps(values.numpy(), component, direction)
        return []

    def point(self, component: TracedComponent, direction: str, caption: str) -> list[Any]:
        """Put a frame round the place of a component, and a caption in place of the title."""
        box = self.boxes.get(component.block, self.boxes["flatten"])
        left, right = box.left - 5, box.left + box.width + 5
        top, bottom = TOPS[direction] - 5, TOPS[direction] + SIDE + 5
        self.frame.set_data([left, right, right, left, left], [top, top, bottom, bottom, top])
        self.title.set_text(caption)
        return [self.frame, self.title]

    def _write_heads(self, trace: Trace, block: str) -> None:
        """Write the block's name, its components and the shape of its output above its panel."""
        parts = []
        for component in trace:
            if component.block == block and component.kind != "Dropout":
                parts.append(component)
        shape = " x ".join(map(str, parts[-1].output.shape))
        x, y = self.boxes[block].left + self.boxes[block].width / 2, TOPS["forward"] - 95
        name = "softmax" if block == "flatten" else block
        self._write(x, y, name, size=11, weight="bold")
        for number, line in enumerate([*(part.title for part in parts), shape], 1):
            self._write(x, y + 2 + 19 * number, line)

    def _draw_maps(
        self, values: np.ndarray, component: TracedComponent, direction: str
    ) -> list[Any]:
        box = self.boxes[component.block]
        columns = round(box.width / box.map_side)
        height = -(-len(values) // columns) * box.map_side
        top = TOPS[direction] + (SIDE - height) / 2
        low, high = np.quantile(values, QUANTILES)
        notes = [f"{low:.2g} … {high:.2g}"]
        if direction == "backward":
            # even round 0
            low, high = np.quantile([values, -values], QUANTILES)
            notes = [f"± {high:.0e}", f"norm {np.linalg.norm(values):.1e}"]
        # all values are alike
        if low >= high:
            low, high = low - 1, high + 1
        sheet = self.axes.imshow(
            arrange_maps(values, columns),
            vmin=low,
            vmax=high,
            extent=(box.left, box.left + box.width, top + height, top),
            aspect="auto",
            cmap=COLOURS[direction],
        )
        sheet.set_cmap(sheet.cmap.with_extremes(bad="0.75"))
        artists = [sheet]
        if component.name == "image" and direction == "backward":
            artists.append(self._draw_outline(box, top))
        for number, note in enumerate(notes):
            middle = box.left + box.width / 2
            artists.append(self._write(middle, TOPS[direction] + SIDE + 16 + 18 * number, note))
        return artists

    def _draw_outline(self, box: Box, top: float) -> Any:
        """Draw the outline of the digit over the gradient at the image."""
        rows, columns = self.digit.shape
        x = box.left + box.map_side * (np.arange(columns) + 0.5) / columns
        y = top + box.map_side * (np.arange(rows) + 0.5) / rows
        middle = (self.digit.min() + self.digit.max()) / 2
        return self.axes.contour(x, y, self.digit, [middle], colors="black", linewidths=1)

    def _draw_bars(
        self, values: np.ndarray, component: TracedComponent, direction: str, form: str, note: str
    ) -> list[Any]:
        left, classes = self.boxes[component.block].left, len(values)
        low, high = min(values.min(), 0), max(values.max(), 0)
        unit = 100 / ((high - low) or 1)
        y = TOPS[direction] + SIDE / classes * (np.arange(classes) + 0.5)
        colours = ["0.6"] * classes
        colours[self.label] = "tab:orange"
        bars = self.axes.barh(
            y, values * unit, left=left + 22 - low * unit, height=260 / classes, color=colours
        )
        artists = list(bars)
        for label in range(classes):
            artists.append(self._write(left, y[label], label, ha="left", size=11))
            artists.append(self._write(left + 132, y[label], f"{values[label]:{form}}", ha="left"))
        artists.append(self._write(left + BARS_WIDTH / 2, TOPS[direction] + SIDE + 16, note))
        return artists

    def _draw_legend(self, direction: str) -> None:
        legend = LEGENDS[direction]
        left, y = 1290, TOPS[direction] - (134 if direction == "forward" else 26)
        self._write(MARGIN, y, legend.heading, ha="left", size=12, color="tab:blue", weight="bold")
        ramp = np.linspace(0, 1, 256)[None]
        place = (left, left + 200, y + 8, y - 8)
        self.axes.imshow(ramp, extent=place, aspect="auto", cmap=COLOURS[direction])
        self._write(left - 10, y, legend.low, ha="right")
        self._write(left + 210, y, legend.high, ha="left")

    def _draw_arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "lw": 2, "color": "0.3"}
        self.axes.annotate("", end, start, arrowprops=style)

    def _write(
        self, x: float, y: float, text: object, ha: str = "center", size: float = 9.5, **style: Any
    ) -> Any:
        return self.axes.text(x, y, text, ha=ha, va="center", fontsize=size, **style)


def block_boxes(trace: Trace) -> dict[str, Box]:
    """Place the blocks of a trace side by side, each as wide as its maps need."""
    maps = {}
    for component in trace:
        if component.output.ndim == 3:
            maps[component.block] = len(component.output)
    *_, head = maps
    trunk = {}
    for block, number in maps.items():
        if block not in ("image", "conv5", head):
            trunk[block] = number
    rows = _rows_that_fit(trunk.values())
    sizes: dict[str, tuple[float, float]] = {"image": (IMAGE_WIDTH, IMAGE_WIDTH)}
    for block, number in trunk.items():
        sizes[block] = (-(-number // rows) * SIDE / rows, SIDE / rows)
    sizes["conv5"] = (SIDE / 10, SIDE / 10)
    sizes[head] = sizes["flatten"] = (BARS_WIDTH, BARS_WIDTH)
    used = sum(width for width, _ in sizes.values())
    space = (WIDTH - 2 * MARGIN - used) / (len(sizes) - 1)
    boxes, left = {}, float(MARGIN)
    for block, (width, map_side) in sizes.items():
        boxes[block] = Box(left, width, map_side)
        left += width + space
    return boxes


def _rows_that_fit(numbers: Any) -> int:
    """The fewest rows of maps with which all blocks fit into `MAPS_WIDTH`."""
    for rows in count(1):
        columns = sum(-(-number // rows) for number in numbers)
        if columns * SIDE / rows <= MAPS_WIDTH:
            return rows
    raise AssertionError("unreachable: more rows always take less width")


def arrange_maps(maps: np.ndarray, columns: int, side: int = 104, gap: int = 4) -> np.ndarray:
    """Lay maps (C, H, W) out in rows as one array, with NaN between them.

    Args:
        side: of each map, in pixels.
        gap: between two maps, in pixels.
    """
    rows = -(-len(maps) // columns)
    index = np.arange(side) * maps.shape[1] // side
    sheet = np.full((rows * columns, side + gap, side + gap), np.nan)
    sheet[: len(maps), :side, :side] = maps[:, index][:, :, index]
    sheet = sheet.reshape(rows, columns, side + gap, -1).swapaxes(1, 2)
    return sheet.reshape(rows * (side + gap), -1)[:-gap, :-gap]
