"""Search for the best values of any keys with Optuna, on validation images alone."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from cnnbp.config.check import check_arguments
from cnnbp.config.compose import compose
from cnnbp.config.hydra_errors import HYDRA_ERRORS, explain
from cnnbp.errors import UserError
from cnnbp.runs.run_directory import refuse_another_kind, refuse_several_processes
from cnnbp.sweeps.search_report import print_report
from cnnbp.sweeps.search_space import SearchSpace
from cnnbp.sweeps.trials import Trials


def search(overrides: Sequence[str]) -> None:
    """Run trials until the study has its `search.n_trials`, then print and draw what it found.

    The same command continues a study, also from several processes at once; each trial is a run
    directory below the study's. Stopped by Ctrl-C, or with its process killed, a trial is taken up
    again from its last checkpoint.

    Args:
        overrides: of the config, among them perhaps `search=CHOICE` and `search.KEY=VALUE`.

    Raises:
        UserError: the space does not fit the config, or the storage cannot be used or holds a
            study of something else.
    """
    try:
        _search(overrides)
    except (UserError, *HYDRA_ERRORS) as error:
        line = explain(error)
        hidden = _hide_passwords(line, overrides)
        if hidden == line:
            raise
        raise UserError(hidden) from None


def _search(overrides: Sequence[str]) -> None:
    options = _compose_options(overrides)
    settings = options.search
    # before other configs are composed, which have names of their own
    directory = Path(HydraConfig.get().run.dir)
    space = SearchSpace(OmegaConf.to_container(settings.space))
    fixed = _fixed_overrides(settings, overrides)
    for sample in space.samples():
        _check_trial_config(compose([*fixed, *sample]))
    refuse_another_kind(directory, "study")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        trials = Trials(settings, options.seed, space, fixed, directory)
        trials.run()
        print_report(trials.study, fixed, directory)
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        with suppress(OSError):
            # where nothing is in it
            directory.rmdir()
        reason = str(error.__cause__ or error).splitlines()[0]
        storage = hide_password(settings.storage)
        raise UserError(f"{storage}: {reason}; what is stored in the study stays") from None
    except KeyboardInterrupt as stop:
        print(f"\nstopped; the same command with name={directory.name} continues the study")
        sys.exit(stop.args[0])


def _compose_options(overrides: Sequence[str]) -> DictConfig:
    """The config with the group `search`, which no single run has."""
    choice, others = "search=default", []
    for override in overrides:
        if override.startswith("search="):
            choice = override
        else:
            others.append(override)
    options = compose([f"+{choice}", *others])
    OmegaConf.resolve(options.search)
    _check_password(options.search.storage)
    return options


def _fixed_overrides(settings: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What every trial is given; of two overrides of one key the command line's counts."""
    by_key = {}
    for override in [*settings.overrides, *overrides]:
        if not re.match(r"[+~]*(search[.=]|name=)", override):
            by_key[override.partition("=")[0].lstrip("+")] = override
    return list(by_key.values())


def _check_trial_config(config: DictConfig) -> None:
    check_arguments(config)
    refuse_several_processes(config)
    if not config.data.val_size and not config.data.get("folds"):
        raise UserError(
            "data.val_size=0: a search compares on validation images; give data.val_size=5000"
        )


def hide_password(url: str) -> str:
    """The URL of a storage with *** in place of its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def _hide_passwords(line: str, overrides: Sequence[str]) -> str:
    """A message with *** in place of the passwords in overrides, which it may repeat."""
    for override in overrides:
        if password := re.search(r"://[^:/@]*:(.+)@", override):
            line = line.replace(f":{password[1]}@", ":***@")
    return line


def _check_password(url: str) -> None:
    # what follows the first @ is read as the host, which the driver's message would tell
    if re.search(r"://[^:/@]*:[^@]*@[^?]*@", url):
        raise UserError(f"{hide_password(url)}: write an @ in a password as %40")
