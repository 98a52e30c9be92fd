"""Runs side by side: which overrides gave which accuracy."""

import csv
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.plot import figure
from cnnbp.records import read_result

COLUMNS = ("rank", "overrides", "val_accuracy", "accuracy", "loss", "seconds", "error")
SEED_COLUMNS = ("overrides", "seeds", "mean", "deviation", "worst", "best")
SHARES = ("val_accuracy", "accuracy", "mean", "deviation", "worst", "best")
FORMATS = dict.fromkeys(SHARES, "{:.2%}") | {"deviation": "{:.3%}", "loss": "{:.4f}", "seconds": "{:.1f}"}


class SweepEnd(Callback):
    """Ends a multirun with its leaderboard: a table, `leaderboard.csv` and `leaderboard.png`."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        rows = ranked(directory)
        print(f"\n{table(rows)}\n")
        write_csv(rows, directory / "leaderboard.csv")
        try:
            draw(rows, directory / "leaderboard.png")
        except UserError as error:
            print(error)
        failed = sum("error" in row for row in rows)
        if failed:
            sys.exit(f"error: {failed} of {len(rows)} jobs failed; the table names them")


def ranked(directory: Path) -> list[dict[str, Any]]:
    """Read every run below `directory`, the best first: by validation accuracy, without it by test accuracy.

    Failed and unfinished runs come last, with the reason under "error".
    """
    marks = ("result.json", "error.txt", ".hydra")
    runs = sorted({path.parent for mark in marks for path in directory.glob(f"**/{mark}")})
    rows = [{"overrides": str(run.relative_to(directory)), **_outcome(run)} for run in runs]
    rows.sort(key=lambda row: -row.get("val_accuracy", row.get("accuracy", -1)))
    for rank, row in enumerate((row for row in rows if "error" not in row), 1):
        row["rank"] = rank
    return rows


def _outcome(run: Path) -> dict[str, Any]:
    try:
        result = read_result(run / "result.json")
    except FileNotFoundError:
        error = run / "error.txt"
        return {"error": error.read_text().strip() if error.exists() else "unfinished"}
    except UserError:
        return {"error": "result.json cannot be read"}
    kept = {key: result[key] for key in ("val_accuracy", "accuracy", "loss") if key in result}
    return kept | ({"seconds": result["train_seconds"]} if "train_seconds" in result else {})


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group finished runs that differ by their seed only: number, mean, sample standard deviation, worst and best.

    Of the validation accuracy where there is one, else of the test accuracy; the best mean first.
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        if "error" not in row:
            name = re.sub(r"(^|[,/])seed=\d+", "", row["overrides"]).lstrip(",")
            groups.setdefault(name, []).append(row.get("val_accuracy", row["accuracy"]))
    summaries = [
        {
            "overrides": name or "(defaults)",
            "seeds": len(values),
            "mean": statistics.mean(values),
            "worst": min(values),
            "best": max(values),
        }
        | ({"deviation": statistics.stdev(values)} if len(values) > 1 else {})
        for name, values in groups.items()
    ]
    return sorted(summaries, key=lambda summary: -summary["mean"])


def table(rows: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Lay the rows out in aligned columns; columns that no row fills are left out."""
    columns = [column for column in columns if any(column in row for row in rows)]
    cells = [columns] + [[_cell(column, row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cell(column: str, value: Any) -> str:
    return FORMATS.get(column, "{}").format(value) if value != "" else ""


def _label(row: dict[str, Any]) -> str:
    # a rank keeps shortened names apart; between dollar signs matplotlib would set formulas
    return f"{row['rank']}. {row['overrides']}"[:60].replace("$", r"\$")


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows with all columns, in full precision."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy of each finished run, the best on top."""
    rows = [row for row in rows if "error" not in row][::-1]
    with figure(path, width=9, height=1.2 + 0.35 * len(rows)) as axes:
        for key, marker in (("accuracy", "o"), ("val_accuracy", "D")):
            points = [(100 * row[key], _label(row)) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker, label={"accuracy": "test"}.get(key, "validation"))
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", alpha=0.3)
        if rows:
            axes.legend()
