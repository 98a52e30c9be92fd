"""Runs side by side, the best first, one by one and in groups over seeds and folds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cnnbp.runs.run_record import VARYING, RunRecord

# what runs are ranked by, and whether more of it is better
METRICS = {
    "val_accuracy": True,
    "accuracy": True,
    "val_loss": False,
    "loss": False,
    "seconds": False,
}
# overrides that a group's row leaves out: its runs differ by them, or they change no result
UNIMPORTANT_KEYS = {*VARYING, "launcher"}

Row = dict[str, Any]


def rank_runs(*directories: Path, metric: str | None = None) -> list[Row]:
    """Read every run at or below the directories, the best first.

    A row holds what `result.json` does, "overrides" (the run's path), "run" (its RunRecord), and
    for a run without a result the reason under "error"; such runs come last.

    Args:
        metric: a key of `METRICS`, or a metric that was added to the runs; by default a run counts
            by its validation accuracy, or where there is none by its test accuracy.
    """
    rows = []
    seen = set()
    for directory in directories:
        for run in RunRecord.below(directory):
            # directories may be named twice, or one below another
            if run.path.resolve() in seen:
                continue
            seen.add(run.path.resolve())
            label = run.path.relative_to(directory) if len(directories) == 1 else run.path
            rows.append({"overrides": str(label), "run": run, **outcome(run)})
    return in_order(rows, metric)


def outcome(run: RunRecord) -> Row:
    """What a run has as its result, or under "error" why it has none."""
    if run.error is not None:
        return {"error": run.error}
    row = dict(run.result or {})
    if "train_seconds" in row:
        row["seconds"] = row["train_seconds"]
    return row


def in_order(rows: Iterable[Row], metric: str | None = None) -> list[Row]:
    """Sort rows, the best first, and give each with the metric its rank.

    Finished runs without the metric come next, runs without a result last.
    """
    measured, finished, failed = [], [], []
    for row in rows:
        if metric_of(row, metric) in row:
            measured.append(row)
        elif "error" in row:
            failed.append(row)
        else:
            finished.append(row)
    measured.sort(key=lambda row: _cost(row, metric_of(row, metric), metric_of(row, metric)))
    for rank, row in enumerate(measured, 1):
        row["rank"] = rank
    return [*measured, *finished, *failed]


def metric_of(row: Row, metric: str | None) -> str:
    """The metric that a row counts by."""
    if metric:
        return metric
    return "val_accuracy" if "val_accuracy" in row else "accuracy"


def _cost(row: Row, metric: str, key: str) -> float:
    """A number that is smaller for a better value, which is at `key` of a run or a group."""
    return -row[key] if _more_is_better(row, metric) else row[key]


def _more_is_better(row: Row, metric: str) -> bool:
    if metric in METRICS:
        return METRICS[metric]
    return metric.removeprefix("val_") not in row.get("lower_is_better", ())


def group_over_seeds(rows: Sequence[Row], metric: str | None = None) -> list[Row]:
    """Group finished runs of one recipe, which differ by chance alone, the best mean first.

    Of each group: the number of seeds, and where there are folds the number of these and of the
    runs, the mean, the sample standard deviation, the standard error, half the width of the 95 %
    confidence interval of the mean (Student's t), the worst and the best. A seed, or a seed and a
    fold, counts once.
    """
    groups: dict[tuple[str, str], dict[tuple[Any, int | None], Row]] = {}
    for row in rows:
        name = metric_of(row, metric)
        if name in row:
            group = groups.setdefault((name, row["run"].recipe), {})
            run = row["run"]
            group.setdefault((row.get("seed", run.path), run.fold), row)
    summaries = []
    for (name, _), group in groups.items():
        summaries.append(_summary(name, group))
    return sorted(summaries, key=lambda summary: _cost(summary, summary["metric"], "mean"))


def _summary(metric: str, group: dict[tuple[Any, int | None], Row]) -> Row:
    """Sum up the runs of a group, which are given by seed and fold."""
    rows = list(group.values())
    values = [row[metric] for row in rows]
    folds = {fold for _, fold in group if fold is not None}
    best, worst = (max, min) if _more_is_better(rows[0], metric) else (min, max)
    summary = {
        "overrides": _shared_overrides(rows[0]),
        "metric": metric,
        "lower_is_better": rows[0].get("lower_is_better", ()),
        "seeds": len({seed for seed, _ in group}),
        "mean": statistics.mean(values),
        "worst": worst(values),
        "best": best(values),
    }
    if folds:
        summary["folds"] = len(folds)
        summary["runs"] = len(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        error = deviation / math.sqrt(len(values))
        summary["deviation"] = deviation
        summary["standard_error"] = error
        summary["interval_95"] = student_quantile(len(values) - 1) * error
    return summary


def _shared_overrides(row: Row) -> str:
    """The overrides of a group, from those of one of its runs."""
    run = row["run"]
    own = [text for text in run.overrides if override_key(text) not in UNIMPORTANT_KEYS]
    if own:
        return " ".join(own)
    return "(defaults)" if run.exists else row["overrides"]


def override_key(override: str) -> str:
    """The key of an override such as `+optimizer.nesterov=true`."""
    return override.partition("=")[0].lstrip("+~")


def student_quantile(degrees_of_freedom: int, coverage: float = 0.95) -> float:
    """The t for which Student's distribution has `coverage` between -t and t.

    Source: Abramowitz and Stegun, 26.5.27 and 26.7.1, by the incomplete beta function. SciPy has
    this too, but where it is installed torchmetrics imports it and every training starts a second
    later.
    """
    # torch brings it; it is needed here alone
    import mpmath

    def tails(t: Any) -> Any:
        x = degrees_of_freedom / (degrees_of_freedom + t * t)
        return mpmath.betainc(degrees_of_freedom / 2, 0.5, 0, x, regularized=True)

    return float(mpmath.findroot(lambda t: tails(t) - (1 - coverage), (1, 13), solver="anderson"))
