"""The leaderboard: the command, and what a sweep ends with."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.runs.run_record import RunRecord
from cnnbp.sweeps.leaderboard_formats import (
    COLUMNS,
    SEED_COLUMNS,
    comma_separated,
    markdown,
    table,
)
from cnnbp.sweeps.leaderboard_plot import draw_leaderboard
from cnnbp.sweeps.ranking import METRICS, Row, group_over_seeds, in_order, rank_runs
from cnnbp.sweeps.row_filters import keep

WRITERS = {"table": table, "csv": comma_separated, "markdown": markdown}


def print_leaderboard(
    directories: Sequence[Path],
    filter: Sequence[str] = (),
    metric: str | None = None,
    group: bool = False,
    format: str = "table",
    plot: Path | None = None,
) -> None:
    """Print the runs, their groups over seeds and folds, and apart the runs without a result.

    Args:
        filter: conditions as `row_filters.keep` takes them.
        metric: a key of `ranking.METRICS`, or a metric of the runs' own.
        group: print the groups alone.
        format: a key of `WRITERS`.

    Raises:
        UserError: there are no runs, none has the metric, or a condition is wrong.
    """
    rows = rank_runs(*_with_runs(directories), metric=metric)
    if metric and metric not in METRICS:
        _refuse_unknown_metric(rows, metric)
    failed = [row for row in rows if "error" in row]
    finished = keep([row for row in rows if "error" not in row], filter)
    groups = group_over_seeds(finished, metric)
    columns = list(COLUMNS)
    if metric and metric not in COLUMNS:
        columns.insert(2, metric)
    _print_finished(finished, columns, groups, group, format)
    if not finished:
        condition = " that meets --filter" if filter else ""
        print(f"no finished run{condition}", file=sys.stderr)
    if failed:
        # what another program reads holds finished runs alone
        file = sys.stdout if format == "table" else sys.stderr
        print(f"\nwithout a result\n{table(failed)}", file=file)
    if plot:
        draw_leaderboard(groups if group else finished, plot, metric)


def _with_runs(directories: Sequence[Path]) -> list[Path]:
    found, empty = [], []
    for directory in directories:
        if any(RunRecord.below(directory)):
            found.append(directory)
        else:
            empty.append(str(directory))
    if not found:
        raise UserError(f"{', '.join(empty)}: no runs here; give a directory such as outputs/NAME")
    for name in empty:
        print(f"{name}: no runs here", file=sys.stderr)
    return found


def _refuse_unknown_metric(rows: list[Row], metric: str) -> None:
    known = set(METRICS)
    for row in rows:
        # what result.json holds beside the metrics is no float
        known |= {key for key, value in row.items() if isinstance(value, float)}
    if metric not in known:
        raise UserError(f"--metric {metric}: no run has it; choose {', '.join(sorted(known))}")


def _print_finished(
    finished: list[Row], columns: Sequence[str], groups: list[Row], group: bool, format: str
) -> None:
    write = WRITERS[format]
    # another program reads the header of a CSV file
    if not finished and format != "csv":
        return
    if group:
        print(write(groups, SEED_COLUMNS))
        return
    print(write(finished, columns))
    # of one table a file
    if format != "csv":
        print(f"\nover seeds{_and_folds(groups)}\n{write(groups, SEED_COLUMNS)}")


def _and_folds(groups: list[Row]) -> str:
    return " and folds" if any("folds" in group for group in groups) else ""


def end_sweep(directory: Path, failures: dict[Path, str]) -> None:
    """Print a sweep's table, and write `leaderboard.csv` and `leaderboard.png`.

    Args:
        failures: the runs of this sweep that failed, and why; failures of earlier ones below
            `directory` are left out.
    """
    rows = []
    for row in rank_runs(directory):
        if "error" not in row and row["run"].path not in failures:
            rows.append(row)
    for run, error in failures.items():
        rows.append({"overrides": str(run.relative_to(directory)), "error": error})
    rows = in_order(rows)
    print(f"\n{table(rows)}\n")
    with replacing(directory / "leaderboard.csv") as file:
        file.write(comma_separated(rows) + "\n")
    try:
        draw_leaderboard(rows, directory / "leaderboard.png")
    except UserError as error:  # no matplotlib
        print(error)
