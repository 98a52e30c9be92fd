"""Rows of runs as an aligned table, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence

from cnnbp.sweeps.ranking import Row

COLUMNS = ("rank", "overrides", "val_accuracy", "val_loss", "accuracy", "loss", "seconds", "error")
SEED_COLUMNS = (
    "overrides",
    "metric",
    "seeds",
    "folds",
    "runs",
    "mean",
    "deviation",
    "standard_error",
    "interval_95",
    "worst",
    "best",
)
FORMATS = {
    "val_accuracy": "{:.2%}",
    "accuracy": "{:.2%}",
    "val_loss": "{:.4f}",
    "loss": "{:.4f}",
    "seconds": "{:.1f}",
}
# of metrics that a user has added
OF_OTHERS = "{:.4f}"
# of accuracies, which are close together
SPREAD_FORMATS = {"deviation": "{:.3%}", "standard_error": "{:.3%}", "interval_95": "± {:.3%}"}
IN_UNITS_OF_THE_METRIC = ("mean", "worst", "best", *SPREAD_FORMATS)


def table(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Lay the rows out in aligned columns; columns that no row fills are left out."""
    cells = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Lay the rows out as a table in Markdown."""
    head, *body = _cells(rows, columns)
    lines = []
    for line in (head, ["---"] * len(head), *body):
        cells = [cell.replace("|", r"\|") for cell in line]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comma_separated(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Write the rows with all columns, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _cells(rows: Sequence[Row], columns: Sequence[str]) -> list[list[str]]:
    filled = []
    for column in columns:
        if any(column in row for row in rows):
            filled.append(column)
    cells = [filled]
    for row in rows:
        cells.append([_cell(column, row) for column in filled])
    return cells


def _cell(column: str, row: Row) -> str:
    if column not in row:
        return ""
    form = FORMATS.get(column, OF_OTHERS if isinstance(row[column], float) else "{}")
    if column in IN_UNITS_OF_THE_METRIC:
        form = FORMATS.get(row["metric"], OF_OTHERS)
        if column in SPREAD_FORMATS and "%" in form:
            form = SPREAD_FORMATS[column]
    return form.format(row[column])
