"""Tables and pictures of finished runs."""

import math
import re
from pathlib import Path
from statistics import mean
from typing import Any

from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.runs.run_record import read_metrics
from cnnbp.sweeps.ranking import group_over_seeds, rank_runs
from results import RECIPES, ROOT, VARIANTS

Group = dict[str, Any]  # of runs that differ by their seed only


def report(sweeps: dict[str, Path], directory: Path) -> None:
    """Print and write the tables of all sweeps that were trained, and draw them, as files in `directory`."""
    recipes = {name: group(sweeps[name]) for name in RECIPES if finished(sweeps[name])}
    variants = {name: group(sweeps["ablation"], f"ablation={name},") for name in VARIANTS}
    variants = {name: found for name, found in variants.items() if found}
    text = (ROOT / "docs" / "results.md").read_text()
    if recipes:
        text = insert(text, "accuracy", accuracy_table(recipes))
        draw_accuracy(recipes, directory / "accuracy.png")
    if "reference" in variants:
        text = insert(text, "ablation", ablation_table(variants))
        draw_ablation(variants, directory / "ablation.png")
    with replacing(directory / "results.md") as file:
        file.write(text)
    print(directory / "results.md")


def finished(directory: Path) -> list[Group]:
    """The finished runs below a sweep's directory."""
    return [row for row in rank_runs(directory) if "error" not in row]


def group(directory: Path, part: str = "") -> Group | None:
    """The finished runs with `part` in their name, and what they have in common; None where there is none."""
    rows = [row for row in finished(directory) if part in row["overrides"]]
    if not rows:
        return None
    runs = [directory / row["overrides"] for row in rows]
    common = {key: rows[0][key] for key in ("parameters", "epochs")}
    return (
        group_over_seeds(rows)[0]
        | common
        | {"runs": runs, "seconds": mean(row["seconds"] for row in rows)}
    )


def accuracy_table(recipes: dict[str, Group]) -> str:
    """The recipes in Markdown."""
    lines = [
        "| recipe | parameters | epochs | seeds | test accuracy, % | worst seed | best seed | training seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in recipes.items():
        lines.append(
            f"| `{name}` | {found['parameters']:,} | {found['epochs']} | {found['seeds']} | {spread(found)} | "
            f"{found['worst']:.2%} | {found['best']:.2%} | {found['seconds']:.0f} |".replace(
                "%", ""
            )
        )
    return "\n".join(lines)


def spread(found: Group) -> str:
    """Mean and sample standard deviation in %."""
    return f"{100 * found['mean']:.3f}" + (
        f" ± {100 * found['deviation']:.3f}" if "deviation" in found else ""
    )


def standard_error(*groups: Group) -> float:
    """Of the mean of one group, or of the difference between the means of two; infinite where a group is one run."""
    return math.sqrt(
        sum(found.get("deviation", math.inf) ** 2 / found["seeds"] for found in groups)
    )


def ablation_table(variants: dict[str, Group]) -> str:
    """The variants in Markdown, the best first; a difference smaller than two standard errors is called none."""
    reference = variants["reference"]
    lines = [
        "| variant | | parameters | seeds | validation accuracy, % | difference ± standard error |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in sorted(variants.items(), key=lambda item: -item[1]["mean"]):
        difference, error = found["mean"] - reference["mean"], standard_error(found, reference)
        told = (
            f"{100 * difference:+.3f} ± {100 * error:.3f}"
            if abs(difference) >= 2 * error
            else "none"
        )
        lines.append(
            f"| `{name}` | {words(name)} | {found['parameters']:,} | {found['seeds']} | {spread(found)} | "
            f"{'' if name == 'reference' else told} |"
        )
    return "\n".join(lines)


def words(variant: str) -> str:
    """What a variant is, as its config says."""
    return re.search(
        r"^# (?!@)(.+)$", (ROOT / "conf" / "ablation" / f"{variant}.yaml").read_text(), re.MULTILINE
    )[1]


def draw_accuracy(recipes: dict[str, Group], path: Path) -> None:
    """Draw the mean test accuracy after each epoch against the seconds trained so far, and its range over seeds."""
    with figure(path, width=9, height=5) as axes:
        for name, found in recipes.items():
            seconds, accuracies = [], []
            for rows in zip(
                *(read_metrics(run / "metrics.csv") for run in found["runs"]), strict=True
            ):
                seconds.append(
                    mean(float(row["speed/epoch_seconds"]) for row in rows) + (seconds or [0])[-1]
                )
                accuracies.append([100 * float(row["accuracy/test"]) for row in rows])
            (line,) = axes.plot(
                seconds, [mean(values) for values in accuracies], marker=".", label=name
            )
            low, high = zip(*((min(values), max(values)) for values in accuracies), strict=True)
            axes.fill_between(seconds, low, high, color=line.get_color(), alpha=0.15)
        if max(found["mean"] for found in recipes.values()) > 0.99:
            axes.set_ylim(98.5, 99.8)
        axes.set(
            xlabel="seconds of training", ylabel="test accuracy, % (mean and range over seeds)"
        )
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")


def draw_ablation(variants: dict[str, Group], path: Path) -> None:
    """Draw each variant's mean with two standard errors, the best on top."""
    ordered = sorted(variants, key=lambda name: variants[name]["mean"])
    means = [100 * variants[name]["mean"] for name in ordered]
    errors = [200 * standard_error(variants[name]) for name in ordered]
    with figure(path, width=9, height=1.2 + 0.35 * len(ordered)) as axes:
        axes.errorbar(
            means,
            ordered,
            xerr=[error if error < math.inf else 0 for error in errors],
            fmt="o",
            capsize=3,
        )
        axes.axvline(100 * variants["reference"]["mean"], color="0.6", linewidth=1, zorder=0)
        axes.set_xlabel("validation accuracy, % (mean, two standard errors)")
        axes.grid(axis="x", alpha=0.3)


def insert(text: str, name: str, table: str) -> str:
    """Put a table between the marks of this name."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    head, _, rest = text.partition(start)
    return head + start + table + end + rest.partition(end)[2]
