"""A run or a sweep as one HTML file: numbers, curves, mistakes, pictures."""

import base64
import io
import os
import statistics
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.figures.curves import Points, draw_curves
from cnnbp.figures.evaluation_images import confusion_counts, confusion_matrix, mistake_sheet
from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.model.layer_table import measure
from cnnbp.runs.run_record import RunRecord, command_of
from cnnbp.sweeps.leaderboard_plot import draw_leaderboard
from cnnbp.sweeps.ranking import Row, rank_runs
from cnnbp.training.restore import restore
from cnnbp.views.evaluate import accuracy_of, class_table
from cnnbp.views.inference import test_logits
from cnnbp.views.trace import trace_image
from cnnbp.views.trace_picture import draw_trace
from cnnbp.views.trace_table import trace_table

TRACED_IMAGE = 7  # of the test set
PICTURE_SCALE = 2
STAGES = {"train": "training", "val": "validation", "test": "test"}
# what result.json holds: what it is called, and how it is written
FIGURES = {
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


def write_report(directory: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run, or of all runs below a directory, and print where it is.

    Args:
        output: by default `report.html` in the directory.

    Raises:
        UserError: there is no run, matplotlib is missing, or the page cannot be written.
    """
    directory = Path(directory)
    output = Path(output or directory / "report.html")
    if not find_spec("matplotlib"):
        raise UserError(f"{output}: pictures need matplotlib; pip install matplotlib")
    run = RunRecord(directory)
    contents = _run_contents(run) if run.exists else _sweep_contents(directory, output)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
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


def _run_contents(run: RunRecord) -> dict[str, Any]:
    """What the page of a run shows; of an unfinished one as much as there is."""
    curves, network = _curves(run), _network(run)
    figures = run.result or _figures_so_far(run, curves, network)
    shown = []
    for key, (name, form) in FIGURES.items():
        if key in figures:
            shown.append((name, form.format(figures[key])))
    page = run.path / "page.html"
    return {
        "kind": "run",
        "error": run.error,
        "accuracy": figures.get("accuracy"),
        "command": run.command,
        "figures": shown,
        "charts": _charts(_curves_by_kind(curves)),
        "network": network,
        "page": page.name if page.exists() else None,
        "config": run.config_text,
        "versions": figures.get("versions", {}),
    }


def _figures_so_far(
    run: RunRecord, curves: Mapping[str, Points], network: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of an unfinished run: those of its last checkpoint."""
    steps = [step for points in curves.values() for step, _ in points]
    figures = {"steps": max(steps, default=0), "seed": run.config.seed}
    return figures | network.get("result", {})


def _sweep_contents(directory: Path, output: Path) -> dict[str, Any]:
    """What the page of a sweep shows: its runs, the best first."""
    rows = rank_runs(directory)
    if not rows:
        raise UserError(
            f"{directory}: no run here; give a directory such as outputs/NAME that training made"
        )
    common = _name_rows(directory, rows)
    for row in rows:
        own = row["run"].path / "report.html"
        row["link"] = quote(os.path.relpath(own, output.parent)) if own.exists() else None
    finished = [row for row in rows if "error" not in row]
    curves: dict[str, dict[str, Points]] = {"accuracy": {}, "loss": {}}
    for row in finished:
        own_curves = _curves(row["run"])
        for kind, lines in curves.items():
            # of the validation set, or of the test set where that is what each epoch ends with
            points = own_curves.get(f"{kind}/val") or own_curves.get(f"{kind}/test")
            if points:
                lines[row["overrides"]] = points
    picture = None
    if finished:
        picture = _picture(lambda path: draw_leaderboard(finished, path))
    return {
        "kind": "sweep",
        "command": command_of(directory / "multirun.yaml"),
        "common": " ".join(common),
        "figures": _sweep_figures(rows, finished),
        "charts": _charts(curves),
        "finished": finished,
        "failed": [row for row in rows if "error" in row],
        "picture": picture,
    }


def _sweep_figures(rows: list[Row], finished: list[Row]) -> list[tuple[str, str]]:
    figures = [("runs finished", f"{len(finished)} of {len(rows)}")]
    for key in ("val_accuracy", "accuracy"):  # a search never reads the test set
        accuracies = [row[key] for row in finished if key in row]
        name = FIGURES[key][0]
        if accuracies:
            figures.append((f"best {name}", f"{max(accuracies):.2%}"))
        if len(accuracies) > 1:
            mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
            figures.append((f"{name}, mean ± std", f"{mean:.2%} ± {100 * deviation:.2f}"))
    return figures


def _name_rows(directory: Path, rows: list[Row]) -> list[str]:
    """Name runs by the overrides that not all of them share, else by their paths.

    Returns:
        The shared overrides.
    """
    given = [row["run"].overrides for row in rows]
    common = []
    longest: list[str] = max(given, key=len)
    for override in longest:
        if all(override in own for own in given if own):
            common.append(override)
    names = []
    for row, own in zip(rows, given, strict=True):
        differing = " ".join(override for override in own if override not in common)
        names.append(differing or str(row["run"].path.relative_to(directory)))
    if len(set(names)) == len(names):
        for row, name in zip(rows, names, strict=True):
            row["overrides"] = name
    return common


def _network(run: RunRecord) -> dict[str, Any]:
    """Layers, results on the test set and one image's trace, or why these are "missing"."""
    try:
        config, data, model = restore(run.path)
        logits, labels = test_logits(config, data, model)
        images = data.splits["test"][0]
        label = int(labels[TRACED_IMAGE])
        pixels = data.prepare(images[TRACED_IMAGE][None], torch.float64)
        network = model.network.cpu()
        layers = measure(network, pixels.float())
        trace, _ = trace_image(network, pixels, label, config.optimizer.lr)
    except ValueError as error:  # a UserError, or a component that is not propagated by hand
        return {"missing": str(error)}
    names = data.dataset.class_names
    mistaken = logits.argmax(1) != labels
    mistaken_images = images[mistaken]
    if mistaken_images.ndim == 3:
        mistaken_images = mistaken_images[:, None]
    mistakes = None
    if mistaken.any():
        sheet = mistake_sheet(logits, labels, mistaken_images, names, PICTURE_SCALE)
        mistakes = _data_url(sheet)
    read = int(trace[-2].output.argmax())
    title = f"Test image {TRACED_IMAGE}: read as {names[read]}, label {names[label]}"
    return {
        "layers": layers,
        "correct": int((~mistaken).sum()),
        "images": len(labels),
        "confusion": _data_url(confusion_matrix(logits, labels, names, PICTURE_SCALE)),
        "classes": class_table(confusion_counts(logits, labels), names),
        "mistakes": mistakes,
        "trace": title,
        "picture": _picture(lambda path: draw_trace(trace, label, path, title)),
        "table": trace_table(trace, label),
        "result": {
            "accuracy": accuracy_of(logits, labels),
            "loss": F.cross_entropy(logits, labels).item(),
            "parameters": sum(layer.parameters for layer in layers),
        },
    }


def _curves(run: RunRecord) -> Mapping[str, Points]:
    """The curves of `metrics.csv` by column, without values that are not finite."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in run.metrics:
        for key, text in row.items():
            if text and isfinite(float(text)):
                curves.setdefault(key, []).append((int(row["step"]), float(text)))
    return curves


def _curves_by_kind(curves: Mapping[str, Points]) -> dict[str, dict[str, Points]]:
    """Sort the curves of a run into charts, by what is measured, then by the images."""
    charts: dict[str, dict[str, Points]] = {}
    for kind in ("accuracy", "loss"):
        charts[kind] = {}
        for stage, name in STAGES.items():
            points = curves.get(f"{kind}/{stage}")
            if points:
                charts[kind][name] = points
    if "learning_rate" in curves:
        charts["learning rate"] = {"learning rate": curves["learning_rate"]}
    return charts


def _charts(curves: Mapping[str, Mapping[str, Points]]) -> list[dict[str, str]]:
    """Draw each kind of curve that has points."""
    charts = []
    for kind, lines in curves.items():
        if lines:
            picture = _picture(lambda path, kind=kind, lines=lines: _draw_chart(path, kind, lines))
            charts.append({"title": kind.capitalize(), "picture": picture})
    return charts


def _draw_chart(path: Path, kind: str, lines: Mapping[str, Points]) -> None:
    with figure(path, width=6, height=3.8) as axes:
        draw_curves(axes, kind, lines)
        if len(lines) > 1:
            axes.legend(fontsize=8)


def _picture(draw: Callable[[Path], None]) -> str:
    """What `draw` leaves in the file that it is given, as a data URL."""
    with TemporaryDirectory() as folder:
        draw(Path(folder) / "picture.png")
        with Image.open(Path(folder) / "picture.png") as image:
            # 256 colours make it a third of the size
            return _data_url(image.convert("RGB").quantize(256, dither=Image.Dither.NONE))


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
