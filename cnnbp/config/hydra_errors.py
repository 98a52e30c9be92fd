"""What Hydra's and OmegaConf's errors mean for the user, in one line.

Some of them tell the key or the reason in their prose alone. Everything that reads this prose
stands here, and is tested with the version that `constraints.txt` pins.
"""

import errno
import re

from hydra.errors import (
    CompactHydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

HYDRA_ERRORS = (CompactHydraException, OmegaConfBaseException)

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
    """Whether Hydra was given null, or something else that is not a text, for a group's choice."""
    return str(error).startswith("Config group override")


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
    if "Cannot merge" in f"{error} {error.__cause__}":
        key = re.search(r"Error merging override \+*([^=\s]+)", str(error))
        name = key[1] if key else "override"
        return f"{name}: does not fit what is there, a list or a group of keys"
    if isinstance(error, InstantiationException) and error.__cause__:
        place = str(error).rpartition("full_key: ")[2].strip()
        return f"{place}: {error.__cause__}{how_to_replace(place, error.__cause__)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return _unknown_key(error, error.__cause__)
    return str(error)


def _wrong_group_choice(error: BaseException) -> str:
    advice = "give a choice, as in optimizer=adam, logger=none or callbacks=none; --help lists them"
    # of a deletion Hydra prints the whole override, of another choice not even the group
    deletion = re.search(r"input_line='([^']*)'", str(error))
    if deletion:
        return f"{deletion[1]}: deletes no choice of the group; {advice}"
    return f"{error}; {advice}"


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


def how_to_replace(place: str, cause: BaseException) -> str:
    """How to put another class in a place, where one got the keys of the one before.

    Args:
        place: where the part stands in the config, such as `optimizer`.
    """
    if "unexpected keyword argument" not in str(cause) or not place:
        return ""
    return (
        f"; to put another class in its place give '~{place}' '+{place}._target_=...' "
        f"'+{place}.KEY=...', or a config file of your own"
    )


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
    elif override:
        known += f"; a key that the class takes beside them is added as +{override[1]}"
    return f"{override[1] if override else cause.full_key}: no such key; {known}"
