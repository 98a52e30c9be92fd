"""The leaderboard as a picture."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbp.figures.figure_file import figure
from cnnbp.sweeps.ranking import Row

MOST_DRAWN = 50
LONGEST_LABEL = 60


def draw_leaderboard(rows: Sequence[Row], path: Path, metric: str | None = None) -> None:
    """Draw the best runs, or the best groups over seeds with their intervals, the best on top.

    Args:
        metric: what runs are ranked by; by default the accuracies of runs, and of groups what the
            best one is ranked by.
    """
    is_grouped = any("mean" in row for row in rows)
    if is_grouped:
        metric = rows[0]["metric"]
        drawn = [row for row in rows if row["metric"] == metric]
    else:
        drawn = [row for row in rows if "rank" in row]
    drawn = drawn[:MOST_DRAWN][::-1]
    with figure(path, width=9, height=1.2 + 0.35 * len(drawn)) as axes:
        if is_grouped:
            _draw_groups(axes, drawn)
        else:
            _draw_runs(axes, drawn, metric)
        axes.set_yticks(range(len(drawn)), _labels(drawn))
        axes.set_xlabel(metric or "accuracy")
        axes.grid(axis="x", alpha=0.3)
        if drawn:
            axes.legend()


def _draw_groups(axes: Any, rows: Sequence[Row]) -> None:
    means = [row["mean"] for row in rows]
    intervals = [row.get("interval_95", 0) for row in rows]
    axes.errorbar(
        means, range(len(rows)), xerr=intervals, fmt="o", capsize=3, label="mean, 95 % interval"
    )


def _draw_runs(axes: Any, rows: Sequence[Row], metric: str | None) -> None:
    if metric:
        kinds = [(metric, "o", metric)]
    else:
        kinds = [("accuracy", "o", "test accuracy"), ("val_accuracy", "D", "validation accuracy")]
    for key, marker, label in kinds:
        values, places = [], []
        for place, row in enumerate(rows):
            if key in row:
                values.append(row[key])
                places.append(place)
        if values:
            axes.plot(values, places, marker, label=label)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Rank and overrides, without those that all rows have."""
    # overrides stand side by side, or are joined by commas as a directory's name
    parts = [re.split(r"[ ,](?=[^ ,\]}]+=)", row["overrides"]) for row in rows]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    labels = []
    for place, (row, own) in enumerate(zip(rows, parts, strict=True)):
        text = " ".join(part for part in own if part not in shared) or row["overrides"]
        rank = row.get("rank", len(rows) - place)
        label = f"{rank}. {text}"[:LONGEST_LABEL]
        # matplotlib would set it as mathematics
        labels.append(label.replace("$", r"\$"))
    return labels
