"""Conditions on runs, as `leaderboard --filter` takes them."""

import operator
import re
from collections.abc import Sequence
from typing import Any

import yaml

from cnnbp.errors import UserError
from cnnbp.sweeps.ranking import Row, override_key

COMPARISONS = {
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def keep(rows: list[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet every condition: `optimizer=adamw`, `optimizer.lr<=0.01`, `accuracy>0.99`.

    A key is one of the result, of the config, or of the overrides that were given.

    Raises:
        UserError: a condition cannot be read, or no run has its key.
    """
    for condition in conditions:
        key, sign, value = _parse(condition)
        found = [_look_up(row, key) for row in rows]
        if rows and all(value is None for value in found):
            raise UserError(f"--filter {condition}: no run has {key}")
        rows = [row for row, own in zip(rows, found, strict=True) if _holds(own, sign, value)]
    return rows


def _parse(condition: str) -> tuple[str, str, Any]:
    match = re.fullmatch(r"([\w./@]+)(<=|>=|=|<|>)(.+)", condition)
    if not match:
        raise UserError(f"--filter {condition}: is not KEY=VALUE, KEY<VALUE or KEY>VALUE")
    key, sign, text = match.groups()
    value = _read_value(text)
    if sign != "=" and not isinstance(value, float):
        raise UserError(f"--filter {condition}: {text} is no number")
    return key, sign, value


def _read_value(text: str) -> Any:
    try:
        # YAML takes 1e-3 for a text
        return float(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--filter: {text} is no value") from None


def _look_up(row: Row, key: str) -> Any:
    if key in row:
        return row[key]
    node: Any = row["run"].values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if node is not None and not isinstance(node, dict):
        return node
    # the name of a group, such as optimizer
    choices = dict(row["run"].choices)
    for override in row["run"].overrides:
        choices.setdefault(override_key(override), override.partition("=")[2])
    return choices.get(key)


def _holds(found: Any, sign: str, value: Any) -> bool:
    if found is None:
        return False
    try:
        return COMPARISONS[sign](found, value)
    except TypeError:  # a text and a number
        return False
