"""What Hydra's and OmegaConf's errors mean for the user, in one line.

Some of them tell the key or the reason in their prose alone. Everything that reads this prose
stands here, and is tested with the version that `constraints.txt` pins.
"""

import errno
import re
import traceback

from hydra.errors import (
    CompactHydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

HYDRA_ERRORS = (CompactHydraException, OmegaConfBaseException)

# training adds what they are built with
PARTIAL_PARTS = ("optimizer", "scheduler")

# Hydra's names of launchers that are optional, and ours, which are those of the extras
LAUNCHERS = {
    "joblib": "joblib",
    "submitit_slurm": "slurm",
    "submitit_local": "slurm",
    "ray": "ray",
}


def explain(error: BaseException) -> str:
    """Say in one line what went wrong while a config was composed or built."""
    return " ".join(_explain(error).split())


def is_wrong_group_choice(error: BaseException) -> bool:
    """Whether Hydra was given something that is not a text for a group's choice."""
    # its errors for this are of Python's classes, so that the place tells them from others
    frames = traceback.extract_tb(error.__traceback__)
    is_from_there = bool(frames) and frames[-1].filename.endswith("defaults_list.py")
    return is_from_there and isinstance(error, (TypeError, ValueError))


def how_to_replace(place: str, target: str = "...") -> str:
    """The end of a line about keys that belong to a part's former class."""
    is_partial = place in PARTIAL_PARTS
    partial = f"+{place}._partial_=true " if is_partial else ""
    return (
        f"; to put another class in its place give '~{place}' '+{place}._target_={target}' "
        f"{partial}'+{place}.KEY=...', or a config file of your own"
    )


def _explain(error: BaseException) -> str:
    if is_wrong_group_choice(error):
        return _wrong_group_choice(error)
    if isinstance(error, MissingConfigException) and error.options:
        return _missing_choice(error)
    resolver_error = re.match(r"UserError raised while resolving interpolation: (.+)", str(error))
    if resolver_error:
        return resolver_error[1]
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "the disk is full; free some space, then the same command with the same name= continues"
        )
    # submitit's, raised in a job where Slurm's signal has interrupted it
    if "timed-out too many times" in str(error):
        return (
            "the Slurm job's time was up; give hydra.launcher.max_num_timeout= or timeout_min= "
            "a larger value, then the same command with the same name= continues"
        )
    if "Cannot merge" in f"{error} {error.__cause__}":
        key = re.search(r"Error merging override \+*([^=\s]+)", str(error))
        name = key[1] if key else "override"
        return f"{name}: does not fit what is there, a list or a group of keys"
    if isinstance(error, InstantiationException) and error.__cause__:
        place = str(error).rpartition("full_key: ")[2].strip()
        has_other_keys = place and "unexpected keyword argument" in str(error.__cause__)
        return f"{place}: {error.__cause__}{how_to_replace(place) if has_other_keys else ''}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return _unknown_key(error, error.__cause__)
    return str(error)


def _wrong_group_choice(error: BaseException) -> str:
    example = "a choice, as in optimizer=adam, logger=none or callbacks=none; --help lists them"
    # Hydra quotes the override where a group is deleted, but not where it is chosen
    override = re.search(r"input_line='(.*)', config_loader", str(error))
    if override:
        return f"{override[1]}: must be {example}"
    reason = str(error) if isinstance(error, ValueError) else "A list of choices holds texts alone"
    return f"{reason}; give {example}"


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group == "hydra/launcher" and choice in LAUNCHERS:
        extra = LAUNCHERS[choice]
        return f"launcher={extra}: is not installed; pip install 'cnnbp[{extra}]'"
    return f"{group}={choice}: no such choice; choose {', '.join(sorted(error.options))}"


def _unreadable(override: str) -> str:
    """An override that Hydra's grammar does not take, and how to quote it for both."""
    key, sign, value = override.partition("=")
    hint = ""
    if sign and re.fullmatch(r"[+~]*[\w./@-]+", key):
        quoted = value.replace("\\", r"\\").replace('"', r"\"")
        if "'" not in quoted:
            hint = f"; quoted for Hydra and the shell: '{key}=\"{quoted}\"'"
    return f"{override}: is not KEY=VALUE as Hydra reads it{hint}"


def _unknown_key(error: BaseException, cause: OmegaConfBaseException) -> str:
    override = re.search(r"use \+(.+)", str(error))
    keys = []
    for key in cause.parent_node or ():
        if not str(key).startswith("_") and key != "hydra":
            keys.append(str(key))
    known = f"choose {', '.join(keys)}" if keys else "see python train.py --cfg job"
    # the top of the config
    if "trainer" in keys:
        known += ", or a group that --help lists"
    elif override and not override[1].partition("=")[2].startswith("{"):
        known += f"; a key that the class takes beside them is added as +{override[1]}"
    return f"{override[1] if override else cause.full_key}: no such key; {known}"
