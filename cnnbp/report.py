"""A run or a sweep as one HTML file that needs nothing else: numbers, curves, mistakes, and the network at work."""

import base64
import csv
import io
import json
import os
import shlex
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from math import ceil, floor, isfinite, log10
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cnnbp import explain, leaderboard
from cnnbp.errors import UserError
from cnnbp.evaluate import on_test_set
from cnnbp.files import replacing
from cnnbp.summary import measure
from cnnbp.training import restore

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


def report(directory: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run, or of all runs below a directory, and return where: by default `report.html` there.

    Raises:
        UserError: there is no run, matplotlib is missing, or the page cannot be written.
    """
    directory = Path(directory)
    output = Path(output or directory / "report.html")
    if not find_spec("matplotlib"):
        raise UserError(f"{output}: pictures need matplotlib; pip install matplotlib")
    contents = _run(directory) if (directory / ".hydra" / "config.yaml").exists() else _sweep(directory, output)
    templates = FileSystemLoader(Path(__file__).parent / "assets")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html").render(contents, title=os.path.relpath(directory))
    try:
        with replacing(output, "wb") as file:
            file.write(html.encode())
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from None
    return output


def _run(directory: Path) -> dict[str, Any]:
    """What the page of a run shows; of an unfinished one as much as there is."""
    records = directory / ".hydra"
    error = next(row.get("error") for row in leaderboard.ranked(directory) if row["overrides"] == ".")
    result = {} if error else json.loads((directory / "result.json").read_text())
    columns, network = _metrics(directory), _network(directory)
    sofar = {"steps": max((step for points in columns.values() for step, _ in points), default=0)}
    sofar |= network.get("result", {}) | {"seed": OmegaConf.load(records / "config.yaml").seed}
    figures = result or sofar
    return {
        "kind": "run",
        "error": error,
        "accuracy": figures.get("accuracy"),
        "command": _command(records / "hydra.yaml"),
        "figures": [(name, form.format(figures[key])) for key, (name, form) in FIGURES.items() if key in figures],
        "charts": _run_charts(columns),
        "network": network,
        "config": (records / "config.yaml").read_text(),
        "versions": result.get("versions", {}),
    }


def _sweep(directory: Path, output: Path) -> dict[str, Any]:
    """What the page of a sweep shows: its runs, the best first."""
    rows = leaderboard.ranked(directory)
    if not rows:
        raise UserError(f"{directory}: no run here; give a directory such as outputs/NAME that train.py made")
    paths = [directory / row["overrides"] for row in rows]
    names, common = _names(directory, paths)
    for row, path, name in zip(rows, paths, names, strict=True):
        own = path / "report.html"
        row["link"] = quote(os.path.relpath(own, output.parent)) if own.exists() else None
        row["overrides"] = name
    finished = [row for row in rows if "error" not in row]
    accuracies = [row["accuracy"] for row in finished]
    figures = [("runs finished", f"{len(finished)} of {len(rows)}")]
    if finished:
        figures.append(("best test accuracy", f"{max(accuracies):.2%}"))
    if len(finished) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        figures.append(("test accuracy, mean ± std", f"{mean:.2%} ± {100 * deviation:.2f}"))
    columns = [_metrics(path) for path, row in zip(paths, rows, strict=True) if "error" not in row]
    return {
        "kind": "sweep",
        "command": _command(directory / "multirun.yaml"),
        "common": " ".join(common),
        "figures": figures,
        "charts": _sweep_charts([row["overrides"] for row in finished], columns),
        "finished": finished,
        "failed": [row for row in rows if "error" in row],
        "picture": _picture(lambda path: leaderboard.draw(finished, path)) if finished else None,
    }


def _names(directory: Path, runs: list[Path]) -> tuple[list[str], list[str]]:
    """Name runs by the overrides that not all of them share, else by their paths; also return the shared ones."""
    files = [run / ".hydra" / "overrides.yaml" for run in runs]
    overrides = [list(OmegaConf.load(file)) if file.exists() else [] for file in files]
    common = [text for text in max(overrides, key=len) if all(text in own for own in overrides if own)]
    names = [" ".join(text for text in own if text not in common) for own in overrides]
    paths = [str(run.relative_to(directory)) for run in runs]
    distinct = len({name for name in names if name}) == len([own for own in overrides if own])
    return [name or path for name, path in zip(names, paths, strict=True)] if distinct else paths, common


def _command(record: Path) -> str | None:
    """The command line that Hydra's record tells of; a job of a sweep is repeated in its place by -m, too."""
    if not record.exists():
        return None
    hydra = OmegaConf.load(record).hydra
    return shlex.join(["python", "train.py", *["-m"] * (hydra.mode == "MULTIRUN"), *hydra.overrides.task])


def _network(directory: Path) -> dict[str, Any]:
    """Layers, results on the test set and one image's journey with the last weights, or why these are "missing"."""
    try:
        config, data, model = restore(directory)
        loss, accuracy, logits = on_test_set(config, data, model)
        images, labels = (tensor.cpu() for tensor in data.splits["test"])
        image, label = images[IMAGE], int(labels[IMAGE])
        pixels = data.normalise(image[None, None].double())
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
        "result": {"accuracy": accuracy, "loss": loss, "parameters": sum(layer.parameters for layer in layers)},
    }


def _mistakes(images: Tensor, labels: Tensor, logits: Tensor) -> list[dict[str, Any]]:
    """The 20 wrongly read images with the largest loss, the worst first."""
    wrong = (logits.argmax(1) != labels).nonzero().flatten()
    losses = F.cross_entropy(logits[wrong], labels[wrong], reduction="none")
    mistakes = []
    for index in wrong[losses.argsort(descending=True)][:20].tolist():
        sureness, taken = logits[index].softmax(0).max(0)
        ink = Image.fromarray(255 - images[index].numpy())
        mistakes.append({"true": int(labels[index]), "taken": int(taken), "sure": sureness.item(), "png": _png(ink)})
    return mistakes


def _picture(draw: Callable[[Path], None]) -> str:
    """What `draw` leaves in the file that it is given, as a data URL."""
    with TemporaryDirectory() as folder:
        draw(Path(folder) / "picture.png")
        with Image.open(Path(folder) / "picture.png") as image:
            return _png(image.convert("RGB").quantize(256, dither=Image.Dither.NONE))  # a third of the size


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _metrics(directory: Path) -> dict[str, Points]:
    """The curves of `metrics.csv`, without what is not finite; none where the run wrote no such file."""
    if not (directory / "metrics.csv").exists():
        return {}
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = {key: [(int(row["step"]), float(row[key])) for row in rows if row[key]] for key in (rows or [{}])[0]}
    return {key: [point for point in curve if isfinite(point[1])] for key, curve in points.items()}
