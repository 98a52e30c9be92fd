"""Curves over the steps of training: accuracy, loss, learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

# step and value
Points = Sequence[tuple[int, float]]

# one image of 10,000: no error at all has no logarithm
LOWEST_ERROR = 1e-4


def draw_curves(axes: Any, kind: str, lines: Mapping[str, Points]) -> None:
    """Draw lines by name on matplotlib axes.

    Accuracies lie by the logarithm of their error, so that 98 % and 99 % are as far apart as 99 %
    and 99.5 %; losses lie by their own.

    Args:
        kind: "accuracy", "loss" or "learning rate".
    """
    for name, points in lines.items():
        steps = [step for step, _ in points]
        values = [value for _, value in points]
        axes.plot(steps, values, marker=".", markersize=4, linewidth=1.4, label=name)
    if kind == "accuracy":
        axes.set_yscale("function", functions=(_to_height, _to_accuracy))
        axes.yaxis.set_major_formatter(_as_percent)
        axes.set_yticks(_accuracy_ticks(lines))
    if kind == "loss":
        axes.set_yscale("log")
    axes.set_title(kind.capitalize())
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _to_height(accuracies: Any) -> Any:
    import numpy as np

    # matplotlib asks for places outside the data too
    return -np.log10(np.maximum(1 - np.asarray(accuracies), LOWEST_ERROR))


def _to_accuracy(heights: Any) -> Any:
    import numpy as np

    return 1 - 10.0 ** -np.asarray(heights)


def _as_percent(value: float, position: int) -> str:
    return f"{100 * value:.6g} %"


def _accuracy_ticks(lines: Mapping[str, Points]) -> list[float]:
    """The round accuracies between the lowest and the highest one that is drawn."""
    values = []
    for points in lines.values():
        values.extend(value for _, value in points)
    low, high = min(values), max(values)
    ticks = []
    for error in (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001):
        if low <= 1 - error <= high:
            ticks.append(1 - error)
    return ticks or [low, high]
