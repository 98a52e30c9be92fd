"""Overrides as a person types them, made readable for Hydra."""

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# keys whose values are names and paths, which may hold Hydra's special characters
PATHS = ("ckpt_path", "data.root")
NAMES = ("name",)


def quote_paths(arguments: list[str]) -> list[str]:
    """Quote the values of paths that exist, and of names that Hydra's grammar would not take.

    A sweep's jobs have directories such as `seed=1,trainer=smoke`, which Hydra would read as
    several values.
    """
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    if not sign or value[:1] in "'\"":
        return argument
    is_path = key in PATHS and os.path.exists(value)
    is_name = key in NAMES and not _is_readable(argument)
    if not (is_path or is_name):
        return argument
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return f"{key}='{escaped}'"


def _is_readable(argument: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return False
    return True
