"""Runs side by side: which overrides gave which accuracy, run by run and over seeds."""

import csv
import io
import math
import operator
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cnnbp.errors import UserError
from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.runs.run_record import read_result

COLUMNS = ("rank", "overrides", "val_accuracy", "val_loss", "accuracy", "loss", "seconds", "error")
SEED_COLUMNS = (
    "overrides",
    "metric",
    "seeds",
    "mean",
    "deviation",
    "standard_error",
    "interval_95",
    "worst",
    "best",
)
METRICS = {
    "val_accuracy": True,
    "accuracy": True,
    "val_loss": False,
    "loss": False,
    "seconds": False,
}  # more is better
FORMATS = {
    "val_accuracy": "{:.2%}",
    "accuracy": "{:.2%}",
    "val_loss": "{:.4f}",
    "loss": "{:.4f}",
    "seconds": "{:.1f}",
}
SPREADS = {"deviation": "{:.3%}", "standard_error": "{:.3%}", "interval_95": "± {:.3%}"}
COMPARISONS = {
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
UNLIKE = ("seed", "name", "run_dir", "jobs", "overwrite")  # what runs of one recipe may differ by
MOST_DRAWN = 50

Row = dict[str, Any]


def ranked(*directories: Path, metric: str | None = None) -> list[Row]:
    """Read every run below the directories, the best first: by `metric`, a key of `METRICS`, or by accuracy.

    Without a metric a run counts by its validation accuracy, or where there is none by its test accuracy. Failed
    and unfinished runs come last, with the reason under "error".
    """
    found = {
        run.resolve(): (run, directory) for directory in directories for run in runs(directory)
    }
    rows = []
    for run, directory in found.values():
        label = run.relative_to(directory) if len(directories) == 1 else run
        rows.append({"overrides": str(label), "run": run, **outcome(run)})
    return _in_order(rows, metric)


def _in_order(rows: list[Row], metric: str | None = None) -> list[Row]:
    rows.sort(key=lambda row: _badness(row, metric))
    for rank, row in enumerate((row for row in rows if _metric(row, metric) in row), 1):
        row["rank"] = rank
    return rows


def runs(directory: Path) -> Iterator[Path]:
    """Every run below a directory, finished or not."""
    for path, directories, files in os.walk(directory):
        if ".hydra" in directories or "result.json" in files or "error.txt" in files:
            yield Path(path)
        directories[:] = sorted(
            name for name in directories if not name.startswith(".") and name != "checkpoints"
        )


def outcome(run: Path) -> Row:
    """What `result.json` holds, with "seconds" of training; or under "error" why there is none."""
    try:
        result = read_result(run / "result.json")
    except FileNotFoundError:
        error = run / "error.txt"
        return {"error": error.read_text().strip() if error.exists() else "unfinished"}
    except UserError:
        return {"error": "result.json cannot be read"}
    return result | ({"seconds": result["train_seconds"]} if "train_seconds" in result else {})


def _metric(row: Row, metric: str | None) -> str:
    return metric or ("val_accuracy" if "val_accuracy" in row else "accuracy")


def _badness(row: Row, metric: str | None) -> float:
    metric = _metric(row, metric)
    value = row.get(metric, math.inf if "error" in row else 1e300)
    return -value if METRICS[metric] and metric in row else value


def recipe(run: Path) -> str:
    """What a run was made with, less seed and name: two runs with the same text differ by chance alone."""
    record = run / ".hydra" / "config.yaml"
    return (
        re.sub(rf"(?m)^({'|'.join(UNLIKE)}):.*\n(?: .*\n)*", "", record.read_text(errors="replace"))
        if record.exists()
        else str(run)
    )


def over_seeds(rows: Sequence[Row], metric: str | None = None) -> list[Row]:
    """Group finished runs whose config differs by seed and name only, the best mean first.

    Of each group the number of seeds, the mean, the sample standard deviation, the standard error and half the width
    of the 95 % confidence interval of the mean (Student's t), the worst and the best. A seed counts once.
    """
    groups: dict[tuple[str, str], dict[Any, Row]] = {}
    for row in rows:
        if _metric(row, metric) in row:
            group = groups.setdefault((_metric(row, metric), recipe(row["run"])), {})
            group.setdefault(row.get("seed", row["run"]), row)
    summaries = [_summary(name, list(group.values())) for (name, _), group in groups.items()]
    return sorted(
        summaries, key=lambda summary: -summary["mean"] * (1 if METRICS[summary["metric"]] else -1)
    )


def _summary(metric: str, rows: list[Row]) -> Row:
    values = [row[metric] for row in rows]
    best, worst = (max, min) if METRICS[metric] else (min, max)
    summary = {
        "overrides": _overrides(rows[0]),
        "metric": metric,
        "seeds": len(values),
        "mean": statistics.mean(values),
        "worst": worst(values),
        "best": best(values),
    }
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
        summary |= {"deviation": statistics.stdev(values), "standard_error": error}
        summary["interval_95"] = t_quantile(len(values) - 1) * error
    return summary


def t_quantile(freedom: int, coverage: float = 0.95) -> float:
    """The t between whose negative and itself Student's distribution has `coverage`, by bisection.

    The distribution is Abramowitz and Stegun, 26.7.3 and 26.7.4. SciPy has this too, but where it is installed
    torchmetrics imports it, and every training starts a second later.
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        odd = freedom % 2
        term = math.cos(angle) if odd else 1.0
        total = term if freedom > 1 else 0.0
        for k in range(2 + odd, freedom - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        share = math.sin(angle) * total
        if odd:
            share = (angle + share) * 2 / math.pi
        low, high = (angle, high) if share < coverage else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _overrides(row: Row) -> str:
    own = [text for text in given(row["run"]) if _key(text) not in TOLD_ELSEWHERE]
    return " ".join(own) or ("(defaults)" if (row["run"] / ".hydra").exists() else row["overrides"])


TOLD_ELSEWHERE = {*UNLIKE, "launcher"}


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def given(run: Path) -> list[str]:
    """The overrides that a run was started with."""
    return _load(run / ".hydra" / "overrides.yaml") or []


@cache
def _load(path: Path) -> Any:
    """What a YAML file holds, or None where there is none that can be read."""
    try:
        return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def keep(rows: list[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet every condition: `optimizer=adamw`, `optimizer.lr<=0.01`, `accuracy>0.99`.

    A key is one of the result, of the config, or of the overrides that were given.

    Raises:
        UserError: a condition is none.
    """
    for condition in conditions:
        match = re.fullmatch(r"([\w./@]+)(<=|>=|=|<|>)(.+)", condition)
        if not match:
            raise UserError(f"--filter {condition}: is not KEY=VALUE, KEY<VALUE or KEY>VALUE")
        key, sign, value = match[1], match[2], _value(match[3])
        if sign != "=" and not isinstance(value, float):
            raise UserError(f"--filter {condition}: {match[3]} is no number")
        found = [_lookup(row, key) for row in rows]
        if rows and all(value is None for value in found):
            raise UserError(f"--filter {condition}: no run has {key}")
        rows = [row for row, own in zip(rows, found, strict=True) if _compare(own, sign, value)]
    return rows


def _lookup(row: Row, key: str) -> Any:
    if key in row:
        return row[key]
    node = _load(row["run"] / ".hydra" / "config.yaml")
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if node is None or isinstance(node, dict):  # a group's choice is no value of the config
        return _choices(row["run"]).get(key)
    return node


def _value(text: str) -> Any:
    with suppress(ValueError):
        return float(text)  # YAML takes 1e-3 for a text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--filter: {text} is no value") from None


def _choices(run: Path) -> dict[str, str]:
    """What was chosen from each group; only this part of a long file is parsed."""
    overrides = {_key(text): text.partition("=")[2] for text in given(run)}
    record = run / ".hydra" / "hydra.yaml"
    text = record.read_text(errors="replace") if record.exists() else ""
    block = re.search(r"(?m)^    choices:\n((?:      .*\n)+)", text)
    return overrides | (yaml.safe_load(block[1]) if block else {})


def _compare(found: Any, sign: str, value: Any) -> bool:
    try:
        return found is not None and COMPARISONS[sign](found, value)
    except TypeError:  # a text and a number
        return False


def table(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Lay the rows out in aligned columns; columns that no row fills are left out."""
    cells = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def markdown(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Lay the rows out as a table in Markdown."""
    head, *body = _cells(rows, columns)
    escaped = (
        [cell.replace("|", r"\|") for cell in line] for line in (head, ["---"] * len(head), *body)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def comma_separated(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Write the rows with all columns, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _cells(rows: Sequence[Row], columns: Sequence[str]) -> list[list[str]]:
    columns = [column for column in columns if any(column in row for row in rows)]
    return [columns, *([_cell(column, row) for column in columns] for row in rows)]


def _cell(column: str, row: Row) -> str:
    if column not in row:
        return ""
    form = FORMATS.get(column, "{}")
    if column in ("mean", "worst", "best", *SPREADS):
        form = FORMATS[row["metric"]]
        if column in SPREADS and "%" in form:
            form = SPREADS[column]
    return form.format(row[column])


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a file, which is whole at every instant."""
    with replacing(path) as file:
        file.write(comma_separated(rows) + "\n")


def draw(rows: Sequence[Row], path: Path, metric: str | None = None) -> None:
    """Draw the best runs or groups of `over_seeds`, the best on top; groups with their interval.

    Args:
        metric: a key of `METRICS`; by default the accuracies of runs, and of groups what the best one is ranked by.
    """
    grouped = any("mean" in row for row in rows)
    if grouped:
        metric = rows[0]["metric"]
        rows = [row for row in rows if row["metric"] == metric]
    rows = [row for row in rows if grouped or "rank" in row][:MOST_DRAWN][::-1]
    with figure(path, width=9, height=1.2 + 0.35 * len(rows)) as axes:
        if grouped:
            means, spreads = zip(
                *((row["mean"], row.get("interval_95", 0)) for row in rows), strict=True
            )
            axes.errorbar(
                means,
                range(len(rows)),
                xerr=spreads,
                fmt="o",
                capsize=3,
                label="mean, 95 % interval",
            )
        else:
            for key, marker in (
                ((metric, "o"),) if metric else (("accuracy", "o"), ("val_accuracy", "D"))
            ):
                points = [(row[key], index) for index, row in enumerate(rows) if key in row]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        marker,
                        label={"accuracy": "test accuracy"}.get(key, key),
                    )
        axes.set_yticks(range(len(rows)), _labels(rows))
        axes.set_xlabel(metric or "accuracy")
        axes.grid(axis="x", alpha=0.3)
        if rows:
            axes.legend()


def _labels(rows: Sequence[Row]) -> list[str]:
    """Rank and overrides, without those that all rows have."""
    parts = [re.split(r"[ ,](?=[^ ,\]}]+=)", row["overrides"]) for row in rows]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    own = [" ".join(part for part in given if part not in shared) for given in parts]
    texts = [text or row["overrides"] for text, row in zip(own, rows, strict=True)]
    ranks = [row.get("rank", len(rows) - index) for index, row in enumerate(rows)]
    return [
        f"{rank}. {text}"[:60].replace("$", r"\$") for rank, text in zip(ranks, texts, strict=True)
    ]


def end_sweep(directory: Path, failures: dict[Path, str]) -> None:
    """Print a sweep's table and write `leaderboard.csv` and `leaderboard.png`.

    Args:
        failures: the runs of this sweep that failed, and why; failures of earlier ones below `directory` are left out.
    """
    rows = [row for row in ranked(directory) if "error" not in row and row["run"] not in failures]
    rows += [
        {"overrides": str(run.relative_to(directory)), "error": error}
        for run, error in failures.items()
    ]
    rows = _in_order(rows)
    print(f"\n{table(rows)}\n")
    write_csv(rows, directory / "leaderboard.csv")
    try:
        draw(rows, directory / "leaderboard.png")
    except UserError as error:
        print(error)
