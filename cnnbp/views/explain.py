"""One image's journey through the network and the gradient's journey back: a table, a picture, a film.

All in evaluation mode (running statistics, no dropout) and float64: the same every time, and the gradients by hand
and by autograd agree to rounding.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.model import backprop
from cnnbp.model.layer_table import measure

# what a component is called, what it does, and what happens to the gradient on its way back through it
WORDS = {
    "Conv2d": (
        "conv",
        "each kernel slides over all maps, summing by weight",
        "a pixel collects from all its windows",
    ),
    "ReLU": (
        "ReLU",
        "what is negative becomes 0",
        "it passes where the value was positive and stops elsewhere",
    ),
    "BatchNorm2d": (
        "batch norm",
        "each map is shifted and scaled as learnt in training",
        "each map's is scaled alike",
    ),
    "GroupNorm": (
        "group norm",
        "each group of maps gets one mean and spread",
        "each group's is centred and scaled",
    ),
    "AvgPool2d": (
        "mean of each map",
        "each map is averaged to one class's score",
        "each pixel gets an equal share",
    ),
    "Flatten": ("probabilities", "softmax turns the scores into probabilities that sum to 1", ""),
    "CrossEntropyLoss": (
        "loss",
        "minus the logarithm of the label's probability",
        "probabilities, less 1 at the label",
    ),
}


def _words(kind: str) -> tuple[str, str, str]:
    return WORDS.get(
        kind, (kind, "each value is bent on its own", "it is multiplied by the slope at each value")
    )


@dataclass(frozen=True)
class Stop:
    """One component on the journey: the image, each module of the network, "flatten" (the logits), the loss.

    Attributes:
        words: what the component is, for a reader.
        output, gradient: the activation and the gradient of the loss at it, float64, without the batch dimension.
        difference: the largest between gradients by hand and by autograd, at the output and at the parameters, as
            a share of the largest element there.
        parameters, field, macs: as in `summary.Layer`; behind the last module the field stays.
        weight_gradient: norm of the gradient of the weight, without the bias; None where there is no weight.
        update: how much of the weight one plain SGD step changes, ||lr gradient|| / ||weight||.
    """

    name: str
    kind: str
    words: str
    output: Tensor
    gradient: Tensor
    difference: float
    parameters: int = 0
    field: int = 1
    macs: int = 0
    weight_gradient: float | None = None
    update: float | None = None

    @property
    def block(self) -> str:
        """The part of the network that it belongs to: conv1.0 for conv1.0.norm, gap for gap."""
        return self.name.rpartition(".")[0] or self.name


def explain(
    network: nn.Module,
    image: Tensor,
    prepare: Callable[[Tensor, torch.dtype], Tensor],
    learning_rate: float,
    title: str,
    label: int | None = None,
    plot: str | None = None,
    film: str | None = None,
) -> None:
    """Print the journey of `image`, uint8 (28, 28), as a table; also `draw` it as `plot` and `animate` it as `film`.

    `prepare` maps images (1, 28, 28) to the network's input. Without a label the prediction is taken for it.

    Raises:
        UserError: the film is not to be a GIF, or matplotlib is missing or cannot write the picture.
    """
    if film and Path(film).suffix.lower() != ".gif":
        raise UserError(f"{film}: the film is a GIF; name it FILE.gif")
    stops, taken = journey(network, prepare(image[None], torch.float64), label, learning_rate)
    read = int(stops[-2].output.argmax())
    title += f": read as {read}, label {'unknown, so the prediction is taken for it' if label is None else label}"
    print(f"{title}\n{table(stops, taken)}")
    for path, make in ((plot, draw), (film, animate)):
        if path:
            make(stops, taken, path, title)
            print(path)


def journey(
    network: nn.Module, image: Tensor, label: int | None, learning_rate: float
) -> tuple[list[Stop], int]:
    """Send a normalised image (1, 1, 28, 28), float64, to the loss and the gradient back; also return the label."""
    network = copy.deepcopy(network).cpu().double().eval().requires_grad_()
    label = int(network(image).argmax()) if label is None else label
    labels = torch.tensor([label])
    records = backprop.forward(network, image, labels)
    gradients, image_gradient = backprop.backward(records)
    reference = _by_autograd(network, image, labels)
    modules, layers = (
        dict(network.named_modules()),
        {layer.name: layer for layer in measure(network, image)},
    )

    difference = _difference(image_gradient, reference["image"])
    stops = [Stop("image", "Input", "normalised pixels", image[0], image_gradient[0], difference)]
    for record in records:
        name, module, layer = record.name, modules.get(record.name), layers.get(record.name)
        own = {
            key: gradient for key, gradient in gradients.items() if key.rpartition(".")[0] == name
        }
        pairs = [
            (gradient, reference[key]) for key, gradient in {name: record.gradient, **own}.items()
        ]
        facts = {"difference": max(_difference(*pair) for pair in pairs), "field": stops[-1].field}
        if layer:
            facts |= {
                "parameters": layer.parameters,
                "field": layer.receptive_field,
                "macs": layer.macs,
            }
        if own:
            norm = own[f"{name}.weight"].norm()
            facts["weight_gradient"] = norm.item()
            facts["update"] = (learning_rate * norm / module.weight.norm()).item()
        tensors = [x[0] if x.ndim else x for x in (record.output, record.gradient)]
        stops.append(Stop(name, record.kind, _named(record.kind, module), *tensors, **facts))
    return stops, label


def _by_autograd(network: nn.Module, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradients at the image, the outputs of the modules, the logits ("flatten"), the loss and the parameters."""
    nodes = {"image": image.clone().requires_grad_()}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: nodes.update({name: output})
        )
        for name, module in network.named_modules()
    ]
    nodes["flatten"] = network(nodes["image"])
    for hook in hooks:
        hook.remove()
    nodes["loss"] = F.cross_entropy(nodes["flatten"], labels)
    nodes |= dict(network.named_parameters())
    return dict(zip(nodes, torch.autograd.grad(nodes["loss"], list(nodes.values())), strict=True))


def _difference(values: Tensor, reference: Tensor) -> float:
    return (values - reference).abs().max().item() / (reference.abs().max().item() or 1.0)


def _named(kind: str, module: nn.Module | None) -> str:
    if kind != "Conv2d":
        return _words(kind)[0]
    stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
    return f"conv {module.kernel_size[0]}x{module.kernel_size[1]}{stride}"


def table(stops: list[Stop], label: int) -> str:
    """Lay the journey out, a component a line: forward on the left, to be read down; backward on the right, upwards."""
    lines = [
        f"{'':35}{' forward, downwards ':-^62} | {' backward, upwards ':-^37}",
        f"{'component':18} {'kind':16} {'output':>8} {'params':>7} {'field':>5} {'MACs':>10} {'mean':>9} {'std':>8} "
        f"{'zeros':>6}  | {'|dL/dy|':>8} {'|dL/dw|':>8} {'update':>8} {'differ':>8}",
    ]
    for stop in stops:
        y = stop.output
        shape = "x".join(map(str, y.shape)) or "1"
        backward = (stop.gradient.norm().item(), stop.weight_gradient, stop.update, stop.difference)
        lines.append(
            f"{stop.name:18} {stop.kind:16} {shape:>8} {stop.parameters:>7,} {stop.field:>5} {stop.macs:>10,} "
            f"{y.mean():>9.4f} {y.std(correction=0):>8.4f} {(y == 0).double().mean():>6.1%}  | "
            + " ".join(f"{'' if value is None else format(value, '.1e'):>8}" for value in backward)
        )
    worst = max(stop.difference for stop in stops)
    gradient = sum((stop.weight_gradient or 0) ** 2 for stop in stops) ** 0.5
    rule = "-" * len(lines[1])
    probabilities = stops[-2].output.softmax(0)
    top = ", ".join(
        f"{int(k)} ({probabilities[k]:.2%})" for k in probabilities.argsort(descending=True)[:3]
    )
    total = (
        f"{'total':43} {sum(stop.parameters for stop in stops):>7,} {'':5} {sum(stop.macs for stop in stops):>10,} "
        f"{'':25}  | {'':8} {gradient:>8.1e} {'':8} {worst:>8.1e}"
    )
    notes = (
        "evaluation mode, float64 | update: |lr dL/dw| / |w| | differ: by hand from autograd, share of the largest",
        f"loss {stops[-1].output:.3g} for {label} | read as {top} | by hand and autograd differ by at most {worst:.0e}",
    )
    return "\n".join([*lines[:2], rule, *lines[2:], rule, total, *notes])


WIDTH, HEIGHT, DPI = 1920, 1080, 120  # of the picture; all lengths below are in its pixels
MARGIN, SIDE = 40, 368  # left and right of all; height of a panel
IMAGE, TRUNK, BARS = (
    224,
    800,
    190,
)  # widths: of the image, of all maps from there to the classes, of ten bars
TOPS = {"forward": 206, "backward": 646}  # upper edges of the panels
COLOURS = {"forward": "viridis", "backward": "RdBu_r"}
LEGENDS = {
    "forward": ("Forward: what comes out of each block", "lowest", "highest in the panel"),
    "backward": (
        "Backward: the gradient of the loss at what is above",
        "more of it lowers the loss",
        "raises it",
    ),
}


def draw(stops: list[Stop], label: int, path: str | Path, title: str = "") -> None:
    """Draw what comes out of each block and, below it, the gradient there; each panel has its own range of colours."""
    with figure(path, WIDTH / DPI, HEIGHT / DPI) as axes:
        canvas = _Canvas(axes, stops, label, title)
        for stop in {stop.block: stop for stop in stops}.values():
            for way in TOPS:
                canvas.show(stop, way)


def animate(stops: list[Stop], label: int, path: str | Path, title: str = "") -> None:
    """Film the outputs as they appear component by component, then the gradients on their way back, as a GIF."""
    *moving, loss = [stop for stop in stops if stop.kind != "Dropout"]
    scenes = [(moving[0], "forward", title)]
    scenes += [(stop, "forward", f"{stop.name}: {_words(stop.kind)[1]}") for stop in moving[1:]]
    scenes += [(loss, "backward", f"loss: {_words(loss.kind)[1]}")]
    back = reversed(
        list(pairwise([*moving[:-1], loss]))
    )  # the scores' gradient comes straight from the loss
    scenes += [
        (to, "backward", f"gradient back through {by.name}: {_words(by.kind)[2]}")
        for to, by in back
    ]
    frames = []
    with figure(
        path, WIDTH / DPI, HEIGHT / DPI
    ) as axes:  # saves its last state, which the film then replaces
        axes.figure.set_dpi(DPI * 2 / 3)
        canvas, surface, place = _Canvas(axes, stops, label, ""), axes.figure.canvas, None
        surface.draw()
        done = surface.copy_from_bbox(axes.bbox)
        for stop, way, caption in scenes:  # draw only what changes: five times as fast
            if place != (stop.block, way):
                place, base = (stop.block, way), done
            surface.restore_region(base)
            for artist in canvas.show(stop, way):
                axes.draw_artist(artist)
            done = surface.copy_from_bbox(axes.bbox)
            for artist in canvas.point(stop, way, caption):
                axes.draw_artist(artist)
            frames.append(Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB"))
    palette = frames[-1].quantize(
        method=Image.Quantize.FASTOCTREE
    )  # one for all, so that only what changes is stored
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with replacing(path, "wb") as file:
        durations = [1200] * (len(frames) - 1) + [6000]
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )


class _Canvas:
    """One pair of axes over the whole picture, in pixels: a column a block, the way forward above the way back."""

    def __init__(self, axes: Any, stops: list[Stop], label: int, title: str):
        self.axes, self.label, self.boxes = axes, label, _boxes(stops)
        self.digit = stops[0].output[0]
        axes.figure.set_layout_engine("none")
        axes.set(position=(0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axes.axis("off")
        self.title = self._write(MARGIN, 30, title, ha="left", size=15, weight="bold")
        self.frame = axes.plot([], [], color="tab:orange", linewidth=3)[0]
        for block, (left, width, _) in self.boxes.items():
            parts = [stop for stop in stops if stop.block == block and stop.kind != "Dropout"]
            shape = " x ".join(map(str, parts[-1].output.shape))
            x, y = left + width / 2, TOPS["forward"] - 95
            self._write(x, y, "softmax" if block == "flatten" else block, size=11, weight="bold")
            for number, line in enumerate([*(stop.words for stop in parts), shape], 1):
                self._write(x, y + 2 + 19 * number, line)
        for way, top in TOPS.items():
            self._legend(way)
            for (left, width, _), (right, _, _) in pairwise(self.boxes.values()):
                ends = [(left + width + 8, top + SIDE / 2), (right - 8, top + SIDE / 2)]
                self._arrow(*ends if way == "forward" else reversed(ends))
        x = self.boxes["flatten"][0] + BARS / 2
        self._arrow((x, TOPS["forward"] + SIDE + 10), (x, TOPS["backward"] + SIDE / 2 - 50))

    def show(self, stop: Stop, way: str) -> list[Any]:
        """Show the output or the gradient of `stop` in the place of its block, and return what it is drawn with."""
        values = stop.output if way == "forward" else stop.gradient
        if stop.kind == "CrossEntropyLoss" and way == "backward":
            x, y = self.boxes["flatten"][0] + BARS / 2, TOPS[way] + SIDE / 2
            return [self._write(x, y, f"loss\n{stop.output:.3g}", size=15)]
        if stop.kind == "Flatten" and way == "forward":
            return self._bars(values.softmax(0).numpy(), stop, way, ".1%", "")
        if values.shape[1:] == (1, 1):
            form, note = (
                (".2f", "orange: the label")
                if way == "forward"
                else (".0e", "probability - target")
            )
            return self._bars(values.flatten().numpy(), stop, way, form, note)
        return self._maps(values.numpy(), stop, way) if values.ndim == 3 else []

    def point(self, stop: Stop, way: str, caption: str) -> list[Any]:
        """Put a frame round the place of `stop` and `caption` in place of the title."""
        left, width, _ = self.boxes.get(stop.block, self.boxes["flatten"])
        (x, right), (y, bottom) = (
            (left - 5, left + width + 5),
            (TOPS[way] - 5, TOPS[way] + SIDE + 5),
        )
        self.frame.set_data([x, right, right, x, x], [y, y, bottom, bottom, y])
        self.title.set_text(caption)
        return [self.frame, self.title]

    def _maps(self, values: np.ndarray, stop: Stop, way: str) -> list[Any]:
        left, width, side = self.boxes[stop.block]
        columns = round(width / side)
        height = -(-len(values) // columns) * side
        top = TOPS[way] + (SIDE - height) / 2
        # without the extremes, which would leave all else pale; gradients evenly round 0
        low, high = np.quantile(values if way == "forward" else [values, -values], (0.005, 0.995))
        low, high = (low, high) if low < high else (low - 1, high + 1)
        style = {
            "extent": (left, left + width, top + height, top),
            "aspect": "auto",
            "cmap": COLOURS[way],
        }
        sheet = self.axes.imshow(_tiles(values, columns), vmin=low, vmax=high, **style)
        sheet.set_cmap(sheet.cmap.with_extremes(bad="0.75"))
        artists = [sheet]
        if stop.name == "image" and way == "backward":  # with the outline of the digit
            x, y = (start + side * (np.arange(28) + 0.5) / 28 for start in (left, top))
            middle = (self.digit.min() + self.digit.max()) / 2
            artists.append(
                self.axes.contour(x, y, self.digit, [middle], colors="black", linewidths=1)
            )
        notes = [f"± {high:.0e}", f"norm {np.linalg.norm(values):.1e}"]
        for number, note in enumerate([f"{low:.2g} … {high:.2g}"] if way == "forward" else notes):
            artists.append(self._write(left + width / 2, TOPS[way] + SIDE + 16 + 18 * number, note))
        return artists

    def _bars(self, values: np.ndarray, stop: Stop, way: str, form: str, note: str) -> list[Any]:
        left, _, _ = self.boxes[stop.block]
        low, high = min(values.min(), 0), max(values.max(), 0)
        unit = 100 / ((high - low) or 1)
        y = TOPS[way] + SIDE / 10 * (np.arange(10) + 0.5)
        colours = ["tab:orange" if k == self.label else "0.6" for k in range(10)]
        bars = self.axes.barh(
            y, values * unit, left=left + 22 - low * unit, height=26, color=colours
        )
        digits = [self._write(left, y[k], k, ha="left", size=11) for k in range(10)]
        numbers = [
            self._write(left + 132, y[k], format(values[k], form), ha="left") for k in range(10)
        ]
        return [*bars, *digits, *numbers, self._write(left + BARS / 2, TOPS[way] + SIDE + 16, note)]

    def _legend(self, way: str) -> None:
        heading, low, high = LEGENDS[way]
        left, y = 1290, TOPS[way] - (134 if way == "forward" else 26)
        self._write(MARGIN, y, heading, ha="left", size=12, color="tab:blue", weight="bold")
        style = {"extent": (left, left + 200, y + 8, y - 8), "aspect": "auto", "cmap": COLOURS[way]}
        self.axes.imshow(np.linspace(0, 1, 256)[None], **style)
        self._write(left - 10, y, low, ha="right")
        self._write(left + 210, y, high, ha="left")

    def _arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.axes.annotate(
            "", end, start, arrowprops={"arrowstyle": "-|>", "lw": 2, "color": "0.3"}
        )

    def _write(
        self, x: float, y: float, text: object, ha: str = "center", size: float = 9.5, **style: Any
    ) -> Any:
        return self.axes.text(x, y, text, ha=ha, va="center", fontsize=size, **style)


def _boxes(stops: list[Stop]) -> dict[str, tuple[float, float, float]]:
    """Left edge and width of each block's panel, and the side of one map in it."""
    maps = {stop.block: len(stop.output) for stop in stops if stop.output.ndim == 3}
    *_, head = maps
    trunk = {
        block: number for block, number in maps.items() if block not in ("image", "conv5", head)
    }
    rows = next(
        rows
        for rows in count(1)
        if sum(-(-number // rows) for number in trunk.values()) * SIDE / rows <= TRUNK
    )
    sizes = {"image": (IMAGE, IMAGE)}
    sizes |= {
        block: (-(-number // rows) * SIDE / rows, SIDE / rows) for block, number in trunk.items()
    }
    sizes |= {"conv5": (SIDE / 10, SIDE / 10), head: (BARS, BARS), "flatten": (BARS, BARS)}
    space = (WIDTH - 2 * MARGIN - sum(width for width, _ in sizes.values())) / (len(sizes) - 1)
    boxes, left = {}, MARGIN
    for block, (width, side) in sizes.items():
        boxes[block] = left, width, side
        left += width + space
    return boxes


def _tiles(maps: np.ndarray, columns: int, side: int = 104, gap: int = 4) -> np.ndarray:
    """Lay maps (C, H, W) out in rows as one array, each enlarged to `side` pixels, with nothing (NaN) between them."""
    rows, index = -(-len(maps) // columns), np.arange(side) * maps.shape[1] // side
    sheet = np.full((rows * columns, side + gap, side + gap), np.nan)
    sheet[: len(maps), :side, :side] = maps[:, index][:, :, index]
    sheet = sheet.reshape(rows, columns, side + gap, -1).swapaxes(1, 2)
    return sheet.reshape(rows * (side + gap), -1)[:-gap, :-gap]
