"""How mistakes of the person at the keyboard are told: one line, exit status 1, no traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

FULL_ERROR = "HYDRA_FULL_ERROR"


class UserError(ValueError):
    """Something that the user can mend; the message says what is wrong and what to do."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 1, unless HYDRA_FULL_ERROR=1 asks for more."""
    if os.environ.get(FULL_ERROR) == "1":
        yield
        return
    os.environ[FULL_ERROR] = "1"  # lets Hydra raise its errors instead of printing them
    try:
        yield
    except (UserError, CompactHydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    finally:
        del os.environ[FULL_ERROR]


def explain(error: Exception) -> str:
    """Say in one line what went wrong while a config was composed or built."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice}: no such choice; choose {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not KEY=VALUE as Hydra reads it (put quotes round special characters)"
    if isinstance(error, InstantiationException) and error.__cause__:
        where = str(error).rpartition("full_key: ")[2].strip()
        return " ".join(f"{where}: {error.__cause__}".split())
    if isinstance(error.__cause__, OmegaConfBaseException):
        cause = error.__cause__
        return f"{cause.full_key or cause.key}: no such key; python train.py --cfg job prints all of them"
    return " ".join(str(error).split())
