"""A run or a sweep as one HTML file that needs nothing else: numbers, curves, mistakes, and the network at work."""

import base64
import io
import os
import shlex
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from math import ceil, floor, isfinite, log10
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cnnbp.errors import UserError
from cnnbp.figures.network_images import worst
from cnnbp.files import replacing
from cnnbp.model.layer_table import measure
from cnnbp.runs.run_record import read_config, read_metrics, read_result
from cnnbp.sweeps.leaderboard_plot import draw_leaderboard
from cnnbp.sweeps.ranking import rank_runs
from cnnbp.training.restore import restore
from cnnbp.views import explain
from cnnbp.views.evaluate import on_test_set

IMAGE = 7  # of the test set, whose journey is drawn
STAGES = {"train": "training", "val": "validation", "test": "test"}
FIGURES = {  # what result.json holds: what it is called and how it is written
    "accuracy": ("test accuracy", "{:.2%}"),
    "loss": ("test loss", "{:.4f}"),
    "val_accuracy": ("validation accuracy", "{:.2%}"),
    "val_loss": ("validation loss", "{:.4f}"),
    "epochs": ("epochs", "{:,}"),
    "steps": ("steps", "{:,}"),
    "train_seconds": ("seconds of training", "{:,.1f}"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "parameters": ("parameters", "{:,}"),
    "seed": ("seed", "{}"),
    "precision": ("precision", "{}"),
}

Points = list[tuple[int, float]]  # step and value


def write_report(directory: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run, or of all runs below a directory, and return where: by default `report.html` there.

    Raises:
        UserError: there is no run, matplotlib is missing, or the page cannot be written.
    """
    directory = Path(directory)
    output = Path(output or directory / "report.html")
    if not find_spec("matplotlib"):
        raise UserError(f"{output}: pictures need matplotlib; pip install matplotlib")
    contents = (
        _run(directory)
        if (directory / ".hydra" / "config.yaml").exists()
        else _sweep(directory, output)
    )
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=templates,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(contents, title=directory)
    with replacing(output, "wb") as file:
        file.write(html.encode())
    print(output)
    return output


def _run(directory: Path) -> dict[str, Any]:
    """What the page of a run shows; of an unfinished one as much as there is."""
    records = directory / ".hydra"
    error = next(row.get("error") for row in rank_runs(directory) if row["overrides"] == ".")
    result = {} if error else read_result(directory / "result.json")
    columns, network = _metrics(directory), _network(directory)
    sofar = {"steps": max((step for points in columns.values() for step, _ in points), default=0)}
    sofar |= network.get("result", {}) | {"seed": read_config(records / "config.yaml").seed}
    figures = result or sofar
    return {
        "kind": "run",
        "error": error,
        "accuracy": figures.get("accuracy"),
        "command": _command(records / "hydra.yaml"),
        "figures": [
            (name, form.format(figures[key]))
            for key, (name, form) in FIGURES.items()
            if key in figures
        ],
        "charts": [_chart(kind, lines) for kind, lines in _curves(columns).items() if lines],
        "network": network,
        "config": (records / "config.yaml").read_text(),
        "versions": result.get("versions", {}),
    }


def _sweep(directory: Path, output: Path) -> dict[str, Any]:
    """What the page of a sweep shows: its runs, the best first."""
    rows = rank_runs(directory)
    if not rows:
        raise UserError(
            f"{directory}: no run here; give a directory such as outputs/NAME that train.py made"
        )
    paths = [directory / row["overrides"] for row in rows]
    names, common = _names(directory, paths)
    for row, path, name in zip(rows, paths, names, strict=True):
        own = path / "report.html"
        row["link"] = quote(os.path.relpath(own, output.parent)) if own.exists() else None
        row["overrides"] = name
    finished = [row for row in rows if "error" not in row]
    figures = [("runs finished", f"{len(finished)} of {len(rows)}")]
    for key in ("val_accuracy", "accuracy"):  # a search never looks at the test set
        accuracies, name = [row[key] for row in finished if key in row], FIGURES[key][0]
        if accuracies:
            figures.append((f"best {name}", f"{max(accuracies):.2%}"))
        if len(accuracies) > 1:
            mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
            figures.append((f"{name}, mean ± std", f"{mean:.2%} ± {100 * deviation:.2f}"))
    columns = {
        row["overrides"]: _metrics(path)
        for path, row in zip(paths, rows, strict=True)
        if "error" not in row
    }
    curves = {  # of the validation set, or of the test set where that is what each epoch ends with
        kind: {
            name: own.get(f"{kind}/val") or own.get(f"{kind}/test", [])
            for name, own in columns.items()
        }
        for kind in ("accuracy", "loss")
    }
    return {
        "kind": "sweep",
        "command": _command(directory / "multirun.yaml"),
        "common": " ".join(common),
        "figures": figures,
        "charts": [_chart(kind, lines) for kind, lines in curves.items() if any(lines.values())],
        "finished": finished,
        "failed": [row for row in rows if "error" in row],
        "picture": _picture(lambda path: draw_leaderboard(finished, path)) if finished else None,
    }


def _names(directory: Path, runs: list[Path]) -> tuple[list[str], list[str]]:
    """Name runs by the overrides that not all of them share, else by their paths; also return the shared ones."""
    files = [run / ".hydra" / "overrides.yaml" for run in runs]
    overrides = [list(OmegaConf.load(file)) if file.exists() else [] for file in files]
    common = [
        text for text in max(overrides, key=len) if all(text in own for own in overrides if own)
    ]
    paths = [str(run.relative_to(directory)) for run in runs]
    names = [" ".join(text for text in own if text not in common) for own in overrides]
    names = [name or path for name, path in zip(names, paths, strict=True)]
    return names if len(set(names)) == len(names) else paths, common


def _command(record: Path) -> str | None:
    """The command line that Hydra's record tells of; a job of a sweep is repeated in its place by -m, too."""
    if not record.exists():
        return None
    hydra = OmegaConf.load(record).hydra
    return shlex.join(
        ["python", "train.py", *["-m"] * (hydra.mode == "MULTIRUN"), *hydra.overrides.task]
    )


def _network(directory: Path) -> dict[str, Any]:
    """Layers, results on the test set and one image's journey with the last weights, or why these are "missing"."""
    try:
        config, data, model = restore(directory)
        loss, accuracy, logits = on_test_set(config, data, model)
        images, labels = (tensor.cpu() for tensor in data.splits["test"])
        image, label = images[IMAGE], int(labels[IMAGE])
        pixels = data.prepare(image[None], torch.float64)
        layers = measure(model.network, pixels.float())
        stops, _ = explain.journey(model.network, pixels, label, config.optimizer.lr)
    except ValueError as error:  # a UserError, or a component that is not propagated by hand
        return {"missing": str(error)}
    read = int(stops[-2].output.argmax())
    title = f"Test image {IMAGE}: read as {read}, label {label}"
    return {
        "layers": layers,
        "confusion": multiclass_confusion_matrix(logits, labels, num_classes=10).tolist(),
        "mistakes": _mistakes(images, labels, logits),
        "journey": title,
        "picture": _picture(lambda path: explain.draw(stops, label, path, title)),
        "table": explain.table(stops, label),
        "result": {
            "accuracy": accuracy,
            "loss": loss,
            "parameters": sum(layer.parameters for layer in layers),
        },
    }


def _mistakes(images: Tensor, labels: Tensor, logits: Tensor) -> list[dict[str, Any]]:
    """The 20 wrongly read images with the largest loss, the worst first."""
    mistakes = []
    for index in worst(logits, labels, 20):
        sureness, taken = logits[index].softmax(0).max(0)
        ink = Image.fromarray(255 - images[index].numpy())
        mistakes.append(
            {
                "true": int(labels[index]),
                "taken": int(taken),
                "sure": sureness.item(),
                "png": _png(ink),
            }
        )
    return mistakes


def _picture(draw: Callable[[Path], None]) -> str:
    """What `draw` leaves in the file that it is given, as a data URL."""
    with TemporaryDirectory() as folder:
        draw(Path(folder) / "picture.png")
        with Image.open(Path(folder) / "picture.png") as image:
            return _png(
                image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            )  # a third of the size


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _metrics(directory: Path) -> dict[str, Points]:
    """The curves of `metrics.csv`, without what is not finite; none where the run wrote no such file."""
    rows = read_metrics(directory / "metrics.csv")
    points = {
        key: [(int(row["step"]), float(row[key])) for row in rows if row[key]]
        for key in (rows or [{}])[0]
    }
    return {key: [point for point in curve if isfinite(point[1])] for key, curve in points.items()}


def _curves(columns: dict[str, Points]) -> dict[str, dict[str, Points]]:
    """Sort the columns of a run into charts, by what is measured and then by the data it is measured on."""
    curves = {
        kind: {text: columns.get(f"{kind}/{key}") for key, text in STAGES.items()}
        for kind in SCALES
    }
    curves["learning rate"] = {"learning rate": columns.get("learning_rate")}
    return {
        kind: {name: line for name, line in lines.items() if line} for kind, lines in curves.items()
    }


def _error(accuracy: float) -> float:
    return max(1 - accuracy, 1e-4)  # no error at all has no logarithm: one in 10,000


SCALES = {  # where a value lies on the upright axis; which values between two get a tick; how they are written
    "accuracy": (  # by the logarithm of the error: 98 % and 99 % are as far apart as 99 % and 99.5 %
        lambda value: -log10(_error(value)),
        lambda low, high: [1 - error for error in _log_ticks(_error(high), _error(low))],
        lambda value: f"{100 * value:.6g}%",
    ),
    "loss": (
        lambda value: log10(max(value, 1e-6)),
        lambda low, high: _log_ticks(max(low, 1e-6), max(high, 1e-6)),
        "{:,.6g}".format,
    ),
    "learning rate": (float, lambda low, high: _even_ticks(high), "{:,.6g}".format),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = (
    440,
    270,
    56,
    14,
    12,
    40,
)  # of a chart, and the margins round its curves


def _chart(kind: str, lines: dict[str, Points]) -> dict[str, Any]:
    """Lay lines out on a chart: all that the template needs to draw it."""
    place, ticks_between, write = SCALES[kind]
    steps, values = zip(*(point for line in lines.values() for point in line), strict=True)
    ticks = ticks_between(min(values), max(values))
    lowest, *_, highest = sorted(place(value) for value in (*values, *ticks))
    x_unit = (WIDTH - LEFT - RIGHT) / (max(steps) or 1)
    y_unit = (HEIGHT - TOP - BOTTOM) / ((highest - lowest) or 1)

    def x(step):
        return round(LEFT + step * x_unit, 1)

    def y(value):
        return round(HEIGHT - BOTTOM - (place(value) - lowest) * y_unit, 1)

    few = len(values) <= 400  # more dots hide the lines and make the page large
    return {
        "title": kind.capitalize(),
        "size": (WIDTH, HEIGHT),
        "box": (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "x_ticks": [(x(step), f"{step:,.0f}") for step in _even_ticks(max(steps))],
        "y_ticks": [(y(value), write(value)) for value in ticks],
        "lines": [
            (
                name,
                [(x(step), y(value)) for step, value in line],
                [f"{name}, step {step:,}: {write(value)}" for step, value in line]
                if few or len(line) == 1
                else [],
            )
            for name, line in lines.items()
        ],
    }


def _even_ticks(high: float) -> list[float]:
    """Round numbers at even distances from 0 to `high`, 4 to 8 of them."""
    if high <= 0:
        return [0]
    most, decade = high / 3 * (1 + 1e-9), floor(log10(high / 3))
    steps = [
        factor * 10.0**power for power in (decade - 1, decade, decade + 1) for factor in (1, 2, 5)
    ]
    step = max(step for step in steps if step <= most)
    return [step * number for number in range(floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """From 3 to 6 numbers between two, as round as can be; the two themselves where they are very near."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), range(1, 10), np.arange(1, 10, 0.1), np.arange(1, 10, 0.01)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [float(tick) for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks[:: ceil(len(ticks) / 6)]
    return sorted({low, high})
