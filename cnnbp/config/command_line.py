"""Overrides as a person types them, made readable for Hydra."""

import os
import re
from collections.abc import Iterable
from functools import cache

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from cnnbp.config.check import REFUSED_TRAINER_KEYS
from cnnbp.config.config_files import config_directory
from cnnbp.config.options import TrainerOptions

# keys whose values are names and paths, which may hold characters that are Hydra's syntax
NAMES_AND_PATHS = ("name", "ckpt_path", "data.root")


def prepare_overrides(overrides: Iterable[str]) -> list[str]:
    """Quote names and paths for Hydra, and let the Trainer's own arguments do without a `+`."""
    return [_add_if_missing(_quote(override)) for override in overrides]


def _quote(override: str) -> str:
    """Quote the value of a name or a path where Hydra would take it for something else.

    A sweep's jobs have directories such as `seed=1,trainer=smoke`, which Hydra would read as two
    values. A path that exists is meant, whatever else it could be; other values are quoted where
    Hydra could not read them at all, so that `name=a,b` is still a sweep over two names.
    """
    key, sign, value = override.partition("=")
    if not sign or key not in NAMES_AND_PATHS or value[:1] in ("'", '"'):
        return override
    if _is_readable(override) and not os.path.exists(value):
        return override
    # in Hydra's grammar a backslash is special in front of a quote alone
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True


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
