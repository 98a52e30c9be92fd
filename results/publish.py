"""Tables and pictures of finished runs, for docs/results.md."""

import math
import re
from pathlib import Path
from statistics import mean
from typing import Any

from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.runs.run_record import RunRecord
from cnnbp.sweeps.ranking import Row, group_over_seeds, rank_runs
from results import RECIPES, ROOT, VARIANTS

Group = dict[str, Any]  # of runs that differ by their seed alone

ACCURACY_HEAD = [
    "| recipe | parameters | epochs | seeds | test accuracy, % | worst seed | best seed "
    "| training seconds |",
    "|---|---|---|---|---|---|---|---|",
]
ABLATION_HEAD = [
    "| variant | | parameters | seeds | validation accuracy, % | difference ± standard error |",
    "|---|---|---|---|---|---|",
]
SEEDS_COLUMN = 3  # of both tables


def publish(sweeps: dict[str, Path], docs: Path, beside: Path) -> None:
    """Renew the tables and pictures of all sweeps that were trained here.

    A published row stays where its sweep was not trained here, or with fewer seeds; a table with
    such rows is printed and written beside, with its picture.

    Args:
        sweeps: the directory of each sweep by its name.
        docs: where `results.md` and the pictures are.
        beside: the folder for what is not published.
    """
    source = docs / "results.md" if (docs / "results.md").exists() else ROOT / "docs" / "results.md"
    text = source.read_text()
    recipes = {}
    for name in RECIPES:
        group = read_group(sweeps[name])
        if group:
            recipes[name] = group
    variants = {}
    for name in VARIANTS:
        group = read_group(sweeps["ablation"], f"ablation={name},")
        if group:
            variants[name] = group
    if recipes:
        rows = accuracy_rows(recipes)
        text, whole = merge_rows(text, "accuracy", rows, list(RECIPES))
        folder = docs if whole else beside
        draw_accuracy(recipes, folder / "accuracy.png")
        _show("accuracy", ACCURACY_HEAD, rows, folder, whole)
    if "reference" in variants:
        rows = ablation_rows(variants)
        text, whole = merge_rows(text, "ablation", rows, list(rows))
        folder = docs if whole else beside
        draw_ablation(variants, folder / "ablation.png")
        _show("ablation", ABLATION_HEAD, rows, folder, whole)
    with replacing(docs / "results.md") as file:
        file.write(text)
    print(docs / "results.md")


def _show(name: str, head: list[str], rows: dict[str, str], folder: Path, whole: bool) -> None:
    """Print a table; write it beside where published rows were kept."""
    table = "\n".join([*head, *rows.values()])
    print(table)
    if not whole:
        path = folder / f"{name}.md"
        with replacing(path) as file:
            file.write(f"{table}\n")
        print(f"{path}: rows of fewer seeds than the published ones, which stay, or of a part")


def read_group(directory: Path, part: str = "") -> Group | None:
    """The finished runs with `part` in their name, and what they share; None without any."""
    rows: list[Row] = []
    for row in rank_runs(directory):
        if "error" not in row and part in row["overrides"]:
            rows.append(row)
    if not rows:
        return None
    group = group_over_seeds(rows)[0]
    for key in ("parameters", "epochs"):
        group[key] = rows[0][key]
    group["runs"] = [row["run"] for row in rows]
    group["seconds"] = mean(row["seconds"] for row in rows)
    return group


def merge_rows(text: str, name: str, rows: dict[str, str], order: list[str]) -> tuple[str, bool]:
    """Put rows into the table between the marks of this name.

    A published row stays where there is no new one, or one of fewer seeds.

    Args:
        order: of the rows.

    Returns:
        The text, and whether all published rows were replaced.
    """
    start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    head, _, rest = text.partition(start)
    table, _, tail = rest.partition(end)
    title, line, *published = table.splitlines()
    kept = {row_name(row): row for row in published}
    whole = True
    merged = dict(kept)
    for key, row in rows.items():
        if key in kept and seeds_of(row) < seeds_of(kept[key]):
            whole = False
        else:
            merged[key] = row
    if kept.keys() - rows.keys():
        whole = False
    order = [*order, *(key for key in merged if key not in order)]
    lines = [merged[key] for key in order if key in merged]
    return head + start + "\n".join([title, line, *lines]) + end + tail, whole


def row_name(row: str) -> str:
    """The name in backticks that a row begins with."""
    return row.partition("`")[2].partition("`")[0]


def seeds_of(row: str) -> int:
    """The number of seeds in a row."""
    return int(row.strip("| ").split("|")[SEEDS_COLUMN])


def accuracy_rows(recipes: dict[str, Group]) -> dict[str, str]:
    """The recipes as rows in Markdown, by their names."""
    rows = {}
    for name, group in recipes.items():
        cells = (
            f"`{name}`",
            f"{group['parameters']:,}",
            group["epochs"],
            group["seeds"],
            spread(group),
            f"{100 * group['worst']:.2f}",
            f"{100 * group['best']:.2f}",
            f"{group['seconds']:.0f}",
        )
        rows[name] = f"| {' | '.join(map(str, cells))} |"
    return rows


def spread(group: Group) -> str:
    """Mean and sample standard deviation in %."""
    text = f"{100 * group['mean']:.3f}"
    if "deviation" in group:
        text += f" ± {100 * group['deviation']:.3f}"
    return text


def standard_error(*groups: Group) -> float:
    """The standard error of a group's mean, or of the difference between the means of two.

    Infinite where a group is a single run.
    """
    variance = 0.0
    for group in groups:
        variance += group.get("deviation", math.inf) ** 2 / group["seeds"]
    return math.sqrt(variance)


def ablation_rows(variants: dict[str, Group]) -> dict[str, str]:
    """The variants as rows in Markdown, by their names, the best first.

    Differences below two standard errors are shown as "none".
    """
    reference = variants["reference"]
    rows = {}
    for name in sorted(variants, key=lambda name: -variants[name]["mean"]):
        group = variants[name]
        difference, error = group["mean"] - reference["mean"], standard_error(group, reference)
        shown = "none"
        if abs(difference) >= 2 * error:
            shown = f"{100 * difference:+.3f} ± {100 * error:.3f}"
        if name == "reference":
            shown = ""
        cells = (
            f"`{name}`",
            describe_variant(name),
            f"{group['parameters']:,}",
            group["seeds"],
            spread(group),
            shown,
        )
        rows[name] = f"| {' | '.join(map(str, cells))} |"
    return rows


def describe_variant(variant: str) -> str:
    """What a variant is, as the comment in its config says."""
    config = ROOT / "conf" / "ablation" / f"{variant}.yaml"
    return re.search(r"^# (?!@)(.+)$", config.read_text(), re.MULTILINE)[1]


def draw_accuracy(recipes: dict[str, Group], path: Path) -> None:
    """Draw the mean test accuracy after each epoch against seconds, and its range over seeds."""
    with figure(path, width=9, height=5) as axes:
        for name, group in recipes.items():
            seconds, accuracies = _epochs(group["runs"])
            means = [mean(values) for values in accuracies]
            (line,) = axes.plot(seconds, means, marker=".", label=name)
            low = [min(values) for values in accuracies]
            high = [max(values) for values in accuracies]
            axes.fill_between(seconds, low, high, color=line.get_color(), alpha=0.15)
        if max(group["mean"] for group in recipes.values()) > 0.99:
            axes.set_ylim(98.5, 99.8)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("test accuracy, % (mean and range over seeds)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")


def _epochs(runs: list[RunRecord]) -> tuple[list[float], list[list[float]]]:
    """After each epoch: the mean seconds trained so far, and each run's test accuracy in %."""
    seconds, accuracies = [], []
    total = 0.0
    for rows in zip(*(run.metrics for run in runs), strict=True):
        total += mean(float(row["speed/epoch_seconds"]) for row in rows)
        seconds.append(total)
        accuracies.append([100 * float(row["accuracy/test"]) for row in rows])
    return seconds, accuracies


def draw_ablation(variants: dict[str, Group], path: Path) -> None:
    """Draw each variant's mean with two standard errors, the best on top."""
    ordered = sorted(variants, key=lambda name: variants[name]["mean"])
    means, errors = [], []
    for name in ordered:
        error = 200 * standard_error(variants[name])
        means.append(100 * variants[name]["mean"])
        errors.append(error if math.isfinite(error) else 0)
    with figure(path, width=9, height=1.2 + 0.35 * len(ordered)) as axes:
        axes.errorbar(means, ordered, xerr=errors, fmt="o", capsize=3)
        axes.axvline(100 * variants["reference"]["mean"], color="0.6", linewidth=1, zorder=0)
        axes.set_xlabel("validation accuracy, % (mean, two standard errors)")
        axes.grid(axis="x", alpha=0.3)
