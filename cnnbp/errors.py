"""How mistakes of the person at the keyboard are told: one line, exit status 1, no traceback."""

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import (
    CompactHydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from cnnbp.signals import exiting

# further processes of a run inherit what in_one_line sets, and must not take it for the user's wish
WANTS_TRACEBACKS = (
    os.environ.setdefault("CNNBP_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
)

LAUNCHERS = {
    "joblib": "joblib",
    "submitit_slurm": "slurm",
    "submitit_local": "slurm",
    "ray": "ray",
}  # Hydra's, ours


class UserError(ValueError):
    """Something that the user can mend; the message says what is wrong and what to do."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 1, unless HYDRA_FULL_ERROR=1 asks for more."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra raise its errors instead of printing them
    threading.excepthook = _tell_of_a_thread
    try:
        with exiting():
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the end of Python would tell of it
        sys.exit(1)
    except (UserError, CompactHydraException, OmegaConfBaseException, OSError) as error:
        if WANTS_TRACEBACKS:
            raise
        # what is wrong is wrong in every process of a run, and the first one tells it
        sys.exit(
            1
            if int(os.environ.get("LOCAL_RANK", 0))
            else f"error: {' '.join(explain(error).split())}"
        )
    except Exception as error:
        lightnings = type(error).__name__ == "MisconfigurationException"  # not to import here
        hydras = str(error).startswith("Config group override must be")
        if WANTS_TRACEBACKS or not (lightnings or hydras):
            raise
        if hydras:  # which does not say of which group
            sys.exit(
                f"error: {error}; give a choice, as in optimizer=adam or logger=none; --help lists them"
            )
        sys.exit(f"error: {' '.join(str(error).split())}")


def _tell_of_a_thread(args: threading.ExceptHookArgs) -> None:
    # of a full disk, on which TensorBoard's thread fails, the main thread tells too
    if not issubclass(args.exc_type, OSError):
        sys.__excepthook__(args.exc_type, args.exc_value, args.exc_traceback)


def explain(error: Exception) -> str:
    """Say in one line what went wrong while a config was composed or built."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            return f"launcher={LAUNCHERS[choice]}: is not installed; pip install 'cnnbp[{LAUNCHERS[choice]}]'"
        return f"{group}={choice}: no such choice; choose {', '.join(sorted(error.options))}"
    if ours := re.match(r"UserError raised while resolving interpolation: (.+)", str(error)):
        return ours[1]
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not KEY=VALUE as Hydra reads it (put quotes round special characters)"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "the disk is full; free some space, then the same command with the same name= continues"
        )
    if "Cannot merge" in f"{error} {error.__cause__}":
        key = re.search(r"Error merging override \+*([^=\s]+)", str(error))
        return f"{key[1] if key else 'override'}: does not fit what is there, a list or a group of keys"
    if isinstance(error, InstantiationException) and error.__cause__:
        where = str(error).rpartition("full_key: ")[2].strip()
        return " ".join(f"{where}: {error.__cause__}".split())
    if isinstance(error.__cause__, OmegaConfBaseException):
        return _explain_key(error, error.__cause__)
    return " ".join(str(error).split())


def _explain_key(error: Exception, cause: OmegaConfBaseException) -> str:
    override = re.search(r"use \+(.+)", str(error))
    keys = [
        str(key)
        for key in cause.parent_node or ()
        if not str(key).startswith("_") and key != "hydra"
    ]
    known = f"; {'choose' if keys else 'see'} {', '.join(keys) or 'python train.py --cfg job'}"
    if "trainer" in keys:  # no group's key, but the whole config
        known += ", or a group that --help lists"
    return f"{override[1] if override else cause.full_key}: no such key{known}"
