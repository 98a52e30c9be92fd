"""A trace as a picture: what comes out of each block, and below it the gradient there."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnbp.figures.figure_file import figure
from cnnbp.views.trace import Trace, TracedComponent
from cnnbp.views.trace_panels import (
    MARGIN,
    SIDE,
    WIDTH,
    Panel,
    as_maps,
    group_into_blocks,
    is_vector,
    place_panels,
)

# of the picture; all lengths below are in its pixels
HEIGHT, DPI = 1080, 120
MOST_BARS = 10
# of an image that is shown in its colours
COLOUR_CHANNELS = 3
# lines above a panel
MOST_HEADS = 4
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
        "an increase lowers the loss",
        "raises it",
    ),
}


def draw_trace(trace: Trace, path: str | Path, title: str = "") -> None:
    """Draw a trace; each panel has its own range of colours."""
    with figure(path, WIDTH / DPI, HEIGHT / DPI) as axes:
        picture = TracePicture(axes, trace, title)
        for panel in picture.panels:
            for direction in TOPS:
                picture.show(panel.block.components[-1], direction)
        picture.show(trace.components[-1], "backward")


class TracePicture:
    """Axes over the whole picture, in pixels: a column a block, forward above backward."""

    def __init__(self, axes: Any, trace: Trace, title: str):
        self.axes, self.trace = axes, trace
        self.panels = place_panels(group_into_blocks(trace), len(trace.class_names))
        self.panel_of: dict[TracedComponent, Panel] = {trace.components[-1]: self.panels[-1]}
        for panel in self.panels:
            self.panel_of |= dict.fromkeys(panel.block.components, panel)
        axes.figure.set_layout_engine("none")
        axes.set(position=(0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axes.axis("off")
        self.title = self._write(MARGIN, 30, title, ha="left", size=15, weight="bold")
        self.frame = axes.plot([], [], color="tab:orange", linewidth=3)[0]
        for panel in self.panels:
            self._write_heads(panel)
        for direction, top in TOPS.items():
            self._draw_legend(direction)
            for panel, next_panel in pairwise(self.panels):
                start = (panel.left + panel.width + 8, top + SIDE / 2)
                end = (next_panel.left - 8, top + SIDE / 2)
                if direction == "backward":
                    start, end = end, start
                self._draw_arrow(start, end)
        x = self.panels[-1].middle
        start, end = TOPS["forward"] + SIDE + 10, TOPS["backward"] + SIDE / 2 - 50
        self._draw_arrow((x, start), (x, end))

    def show(self, component: TracedComponent, direction: str) -> list[Any]:
        """Show the output or the gradient of a component in the place of its block.

        Returns:
            The matplotlib artists that it is drawn with.
        """
        panel = self.panel_of[component]
        if component.name == "loss" and not component.is_layer:
            text = f"loss\n{component.output:.3g}"
            return [self._write(panel.middle, TOPS[direction] + SIDE / 2, text, size=15)]
        values = (component.output if direction == "forward" else component.gradient).numpy()
        if not component.is_layer and values.ndim == 1:
            if direction == "backward":
                # the place of the loss
                return []
            return self._draw_bars(self.trace.probabilities.numpy(), panel, direction, ".1%", "")
        if is_vector(component) and len(values) == len(self.trace.class_names):
            if direction == "forward":
                return self._draw_bars(values.flatten(), panel, direction, ".2f", "orange: label")
            note = "probability - target"
            return self._draw_bars(values.flatten(), panel, direction, ".0e", note)
        return self._draw_maps(values, component, panel, direction)

    def point(self, component: TracedComponent, direction: str, caption: str) -> list[Any]:
        """Put a frame round the place of a component, and a caption in place of the title."""
        panel = self.panel_of[component]
        left, right = panel.left - 5, panel.left + panel.width + 5
        top, bottom = TOPS[direction] - 5, TOPS[direction] + SIDE + 5
        self.frame.set_data([left, right, right, left, left], [top, top, bottom, bottom, top])
        self.title.set_text(caption)
        return [self.frame, self.title]

    def _write_heads(self, panel: Panel) -> None:
        """Write the block's name, its components and the shape of its output above its panel."""
        components = panel.block.components
        lines = [component.title for component in components if component.kind != "Dropout"]
        if len(lines) >= MOST_HEADS:
            left_out = len(lines) - MOST_HEADS + 2
            lines[MOST_HEADS - 2 :] = [f"and {left_out} more"]
        lines.append(" x ".join(map(str, components[-1].output.shape)))
        y = TOPS["forward"] - 95
        self._write(panel.middle, y, panel.block.name, size=11, weight="bold")
        for number, line in enumerate(lines, 1):
            self._write(panel.middle, y + 2 + 19 * number, line)

    def _draw_maps(
        self, values: np.ndarray, component: TracedComponent, panel: Panel, direction: str
    ) -> list[Any]:
        low, high = np.quantile(values, QUANTILES)
        notes = [f"{low:.2g} … {high:.2g}"]
        if direction == "backward":
            # even round 0
            low, high = np.quantile([values, -values], QUANTILES)
            notes = [f"± {high:.0e}", f"norm {np.linalg.norm(values):.1e}"]
        # all values are alike
        if low >= high:
            low, high = low - 1, high + 1
        is_image = not component.is_layer
        maps = values.mean(0, keepdims=True) if is_image else as_maps(values)
        columns = max(1, round(panel.width / panel.map_side))
        height = -(-len(maps) // columns) * panel.map_side
        top = TOPS[direction] + (SIDE - height) / 2
        pixels = arrange_maps(maps, columns)
        if is_image and direction == "forward" and len(values) == COLOUR_CHANNELS:
            pixels = np.moveaxis((values - low) / (high - low), 0, 2).clip(0, 1)
        sheet = self.axes.imshow(
            pixels,
            vmin=low,
            vmax=high,
            extent=(panel.left, panel.left + panel.width, top + height, top),
            aspect="auto",
            cmap=COLOURS[direction],
        )
        sheet.set_cmap(sheet.cmap.with_extremes(bad="0.75"))
        artists = [sheet]
        if is_image and direction == "backward":
            artists.append(self._draw_outline(panel, top))
        for number, note in enumerate(notes):
            y = TOPS[direction] + SIDE + 16 + 18 * number
            artists.append(self._write(panel.middle, y, note))
        return artists

    def _draw_outline(self, panel: Panel, top: float) -> Any:
        """Draw the outline of what is on the image over the gradient there."""
        image = self.trace.components[0].output.numpy().mean(0)
        rows, columns = image.shape
        x = panel.left + panel.map_side * (np.arange(columns) + 0.5) / columns
        y = top + panel.map_side * (np.arange(rows) + 0.5) / rows
        middle = (image.min() + image.max()) / 2
        return self.axes.contour(x, y, image, [middle], colors="black", linewidths=1)

    def _draw_bars(
        self, values: np.ndarray, panel: Panel, direction: str, form: str, note: str
    ) -> list[Any]:
        """Draw a bar for each class, or for the likeliest ones and the label."""
        shown = self._shown_classes()
        names = [self.trace.class_names[label][:9] for label in shown]
        name_width = 22 if max(map(len, names)) <= 2 else 74
        number_left = 132
        values = values[shown]
        low, high = min(values.min(), 0), max(values.max(), 0)
        unit = (number_left - name_width - 10) / ((high - low) or 1)
        y = TOPS[direction] + SIDE / len(shown) * (np.arange(len(shown)) + 0.5)
        colours = ["tab:orange" if label == self.trace.label else "0.6" for label in shown]
        bars = self.axes.barh(
            y,
            values * unit,
            left=panel.left + name_width - low * unit,
            height=260 / len(shown),
            color=colours,
        )
        artists = list(bars)
        size = 11 if name_width == 22 else 9.5
        for place, name, value in zip(y, names, values, strict=True):
            artists.append(self._write(panel.left, place, name, ha="left", size=size))
            number = f"{value:{form}}"
            artists.append(self._write(panel.left + number_left, place, number, ha="left"))
        artists.append(self._write(panel.middle, TOPS[direction] + SIDE + 16, note))
        return artists

    def _shown_classes(self) -> list[int]:
        order = self.trace.probabilities.argsort(descending=True).tolist()
        likeliest = order[:MOST_BARS]
        if self.trace.label not in likeliest:
            likeliest[-1] = self.trace.label
        return sorted(likeliest)

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


def arrange_maps(maps: np.ndarray, columns: int, side: int = 104, gap: int = 4) -> np.ndarray:
    """Lay maps (C, H, W) out in rows as one array, with NaN between them.

    Args:
        side: of each map, in pixels.
        gap: between two maps, in pixels.
    """
    rows = -(-len(maps) // columns)
    down = np.arange(side) * maps.shape[1] // side
    right = np.arange(side) * maps.shape[2] // side
    sheet = np.full((rows * columns, side + gap, side + gap), np.nan)
    sheet[: len(maps), :side, :side] = maps[:, down][:, :, right]
    sheet = sheet.reshape(rows, columns, side + gap, -1).swapaxes(1, 2)
    return sheet.reshape(rows * (side + gap), -1)[:-gap, :-gap]
