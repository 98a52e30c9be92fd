"""Overrides as a person types them, made readable for Hydra."""

import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from cnnbp.config.check import REFUSED_TRAINER_KEYS
from cnnbp.config.config_files import config_directory
from cnnbp.config.options import TrainerOptions

# keys whose values may hold characters that are Hydra's syntax
NAMES = ("name",)
PATHS = ("ckpt_path", "data.root")
UNREADABLE = object()


def prepare_overrides(overrides: Iterable[str]) -> list[str]:
    """Quote names and paths for Hydra, and let the Trainer's own arguments do without a `+`."""
    return [_add_if_missing(_quote(override)) for override in overrides]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Put `-m` and `--config-dir DIR` before the overrides, between which Hydra refuses them."""
    options, others = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in ("--config-dir", "-cd"):
            options += [argument, *islice(remaining, 1)]
        elif argument in ("--multirun", "-m"):
            options.append(argument)
        else:
            others.append(argument)
    return [*options, *others]


def _quote(override: str) -> str:
    """Quote a name or a path where Hydra would read something else.

    A sweep's jobs have directories such as `seed=1,trainer=smoke`, which Hydra would read as two
    values. A path that exists is meant, whatever else it could be; other values are quoted where
    Hydra could not read them at all, so that `name=a,b` is still a sweep over two names.
    """
    key, sign, value = override.partition("=")
    if not sign or key not in NAMES + PATHS or value[:1] in ("'", '"'):
        return override
    read = _read(override)
    is_path = key in PATHS and os.path.exists(value)
    if read == value or not (read is UNREADABLE or is_path):
        return override
    # in Hydra's grammar a backslash is special in front of a quote alone
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"


def _read(override: str) -> Any:
    """What Hydra reads as the value: a text, a number, several values, or `UNREADABLE`."""
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return UNREADABLE


def _add_if_missing(override: str) -> str:
    """Write `++trainer.KEY=VALUE` where the Trainer takes the key and the config lacks it."""
    key = override.partition("=")[0].removeprefix("trainer.")
    if not override.startswith(f"trainer.{key}=") or key in _configured_trainer_keys():
        return override
    is_the_trainers = key in TrainerOptions.__annotations__ or key in REFUSED_TRAINER_KEYS
    return f"++{override}" if is_the_trainers else override


@cache
def _configured_trainer_keys() -> frozenset[str]:
    # every choice of the group begins with this one
    return frozenset(yaml.safe_load((config_directory() / "trainer" / "auto.yaml").read_text()))
