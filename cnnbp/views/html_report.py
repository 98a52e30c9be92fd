"""A run or a sweep as one HTML file: numbers, curves, mistakes, pictures."""

import base64
import io
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image

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
from cnnbp.views.evaluate import class_table
from cnnbp.views.inference import Evaluation, evaluate_test_set
from cnnbp.views.trace import trace_image
from cnnbp.views.trace_picture import draw_trace
from cnnbp.views.trace_table import trace_table

# of the test set
TRACED_IMAGE = 7
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
    contents = _run_contents(run, output) if run.exists else _sweep_contents(directory, output)
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


def _run_contents(run: RunRecord, output: Path) -> dict[str, Any]:
    """What the page of a run shows; of an unfinished one as much as there is."""
    # a damaged one raises before anything is drawn
    config = run.config
    curves, network = _curves(run), _network(run)
    figures = run.result if run.error is None else None
    if figures is None:
        figures = _figures_so_far(config.seed, curves, network)
    shown = []
    for key, (name, form) in FIGURES.items():
        if key in figures:
            shown.append((name, form.format(figures[key])))
    # metrics that a user has added
    for key, value in figures.items():
        if key not in FIGURES and isinstance(value, float):
            shown.append((key, f"{value:.4f}"))
    return {
        "kind": "run",
        "error": run.error,
        "accuracy": figures.get("accuracy"),
        "command": run.command,
        "figures": shown,
        "charts": _charts(_curves_by_kind(curves)),
        "network": network,
        "page": _link(run.path / "page.html", output),
        "config": run.config_text,
        "versions": figures.get("versions", {}),
    }


def _link(page: Path, source: Path) -> str | None:
    """The link from one page to another one; None where that does not exist."""
    if not page.exists():
        return None
    return quote(os.path.relpath(page, source.parent))


def _figures_so_far(
    seed: int, curves: Mapping[str, Points], network: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of an unfinished run: those of its last checkpoint."""
    steps = [step for points in curves.values() for step, _ in points]
    figures = {"steps": max(steps, default=0), "seed": seed}
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
        row["link"] = _link(row["run"].path / "report.html", output)
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
    # a search never reads the test set
    for key in ("val_accuracy", "accuracy"):
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
        result = evaluate_test_set(config, data, model)
    except UserError as error:
        return {"missing": str(error)}
    names = data.dataset.class_names
    network = model.network.cpu()
    index = min(TRACED_IMAGE, len(result.labels) - 1)
    label = int(result.labels[index])
    pixels = data.prepare(result.images[index][None], torch.float64)
    rate = OmegaConf.select(config, "optimizer.lr")
    trace = trace_image(network, pixels, label, rate, names)
    predicted = names[trace.prediction]
    title = f"Test image {index}: predicted {predicted}, true class {names[label]}"
    layers = measure(network, pixels.float())
    matrix = confusion_matrix(result.logits, result.labels, names, PICTURE_SCALE)
    return {
        "layers": layers,
        "correct": result.correct,
        "images": len(result.labels),
        "confusion": _data_url(matrix),
        "classes": class_table(confusion_counts(result.logits, result.labels), names),
        "mistakes": _mistakes(result, names),
        "is_gray": data.dataset.channels == 1,
        "trace": title,
        "picture": _picture(lambda path: draw_trace(trace, path, title)),
        "table": trace_table(trace),
        "result": {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "parameters": sum(layer.parameters for layer in layers),
        },
    }


def _mistakes(result: Evaluation, class_names: Sequence[str]) -> str | None:
    """The worst mistakes as a picture; None where all predictions are right."""
    mistaken = result.images[result.is_mistaken]
    if not len(mistaken):
        return None
    sheet = mistake_sheet(result.logits, result.labels, mistaken, class_names, PICTURE_SCALE)
    return _data_url(sheet)


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
