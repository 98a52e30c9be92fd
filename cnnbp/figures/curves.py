"""Curves over the steps of training: accuracy, loss, learning rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# step and value
Points = Sequence[tuple[int, float]]

# one image of 10,000: no error at all has no logarithm
LOWEST_ERROR = 1e-4
# more colours and names than these cannot be told apart
MOST_NAMED = 10
# digits of ticks on a logarithmic axis
ROUND = (1, 2, 3, 5, 7)


def draw_curves(axes: Any, kind: str, lines: Mapping[str, Points]) -> None:
    """Draw lines by name on matplotlib axes, those behind the tenth in gray.

    Accuracies lie by the logarithm of their error, so that 98 % and 99 % are as far apart as 99 %
    and 99.5 %; losses lie by their own.

    Args:
        kind: "accuracy", "loss" or "learning rate".
    """
    for number, (name, points) in enumerate(lines.items()):
        steps = [step for step, _ in points]
        values = [value for _, value in points]
        style = {"label": name, "linewidth": 1.4, "marker": ".", "markersize": 4}
        if number >= MOST_NAMED:
            style = {"color": "0.75", "linewidth": 0.8, "zorder": 1}
        axes.plot(steps, values, **style)
    if kind == "accuracy":
        axes.set_yscale("function", functions=(_to_height, _to_accuracy))
        _set_ticks(axes, _accuracy_ticks(*_range(lines)), _as_percent)
    # a loss of 0, which float32 can round to, has no place on a logarithmic axis
    if kind == "loss" and _range(lines)[0] > 0:
        axes.set_yscale("log")
        _set_ticks(axes, _round_values(*_range(lines)), _as_number)
    axes.set_title(kind.capitalize())
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _range(lines: Mapping[str, Points]) -> tuple[float, float]:
    values = []
    for points in lines.values():
        values.extend(value for _, value in points)
    return min(values), max(values)


def _set_ticks(axes: Any, ticks: Sequence[float], formatter: Any) -> None:
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_formatter(lambda value, position: "")


def _to_height(accuracies: Any) -> Any:
    # matplotlib asks for places outside the data too
    return -np.log10(np.maximum(1 - np.asarray(accuracies), LOWEST_ERROR))


def _to_accuracy(heights: Any) -> Any:
    return 1 - 10.0 ** -np.asarray(heights)


def _as_percent(value: float, position: int) -> str:
    return f"{100 * value:.6g} %"


def _as_number(value: float, position: int) -> str:
    return f"{value:.6g}"


def _accuracy_ticks(low: float, high: float) -> list[float]:
    """Accuracies with round errors between two; the two themselves where there are fewer."""
    errors = _round_values(max(1 - high, LOWEST_ERROR), max(1 - low, LOWEST_ERROR))
    ticks = [1 - error for error in reversed(errors) if low <= 1 - error <= high]
    return ticks if len(ticks) > 1 else [low, high]


def _round_values(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones; the two themselves where there are fewer."""
    values = []
    # parsed as text, because 3 * 10**-1 is 0.30000000000000004
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in ROUND:
            value = float(f"{digit}e{exponent}")
            if low <= value <= high:
                values.append(value)
    return values if len(values) > 1 else [low, high]
