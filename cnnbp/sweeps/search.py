"""Search for the best values of any keys with Optuna, on validation images alone."""

import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cnnbp.config.check import check_arguments
from cnnbp.config.compose import compose
from cnnbp.config.hydra_errors import HYDRA_ERRORS, explain
from cnnbp.errors import UserError, on_one_line
from cnnbp.runs.checkpoint_file import find_checkpoint
from cnnbp.runs.run_directory import RunDirectory, refuse_another_kind, refuse_several_processes
from cnnbp.sweeps.search_report import print_report
from cnnbp.sweeps.search_space import SearchSpace, as_overrides
from cnnbp.sweeps.trial_pruning import Pruning
from cnnbp.training.build import build, fit, summarise
from cnnbp.training.callbacks.divergence import Diverged
from cnnbp.training.trackers import tracked

# Optuna calls its heartbeats experimental
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# of a trial that goes on from a checkpoint
warnings.filterwarnings("ignore", message="The reported value is ignored")
# Optuna prints tracebacks of mistakes that the command answers in one line
optuna.logging.set_verbosity(optuna.logging.CRITICAL)

# of a trial whose process died: it may be the trial that kills it
MOST_RETRIES = 3
# errors of one trial, which do not end the search; the latter for example with too little memory
TRIAL_ERRORS = (Diverged, RuntimeError)

requeue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


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
        content = {"overrides": fixed, "space": space.domains}
        objective = Objective(space, fixed, directory)
        # of several processes that start at once, one creates the tables
        with objective.drawing:
            study = open_study(settings, directory.name, content)
        run_trials(study, settings, options.seed, objective)
        print_report(study, fixed, directory)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ImportError) as error:
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


def open_study(settings: DictConfig, name: str, content: dict[str, Any]) -> optuna.Study:
    """Create a study or load it.

    Args:
        content: what the study is made of; a study of another content is refused.
    """
    storage = RDBStorage(
        settings.storage,
        heartbeat_interval=settings.heartbeat,
        grace_period=3 * settings.heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            MOST_RETRIES, inherit_intermediate_values=True
        ),
    )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=instantiate(settings.pruner),
        load_if_exists=True,
    )
    known = study.user_attrs or content
    changes = []
    for key, value in content.items():
        if known.get(key) != value:
            changes.append(f"{key}: {known.get(key)} -> {value}")
    if changes:
        raise UserError(
            f"the study {name} was made with another search ({'; '.join(changes)}); "
            "give another name="
        )
    for key, value in content.items():
        study.set_user_attr(key, value)
    return study


def run_trials(
    study: optuna.Study, settings: DictConfig, seed: int, objective: "Objective"
) -> None:
    """Run trials up to the total, and wait for those of other processes.

    When another process dies, its trial is taken over here.
    """
    is_waiting = False
    while True:
        # The objective releases the lock once the trial's values are drawn and stored, so that no
        # two processes count or draw alike.
        with objective.drawing:
            trials = study.get_trials(deepcopy=False)
            if _count_begun(trials) < settings.n_trials:
                # the draws follow from the seed and the number of trials, so that a continued
                # study draws anew
                study.sampler = instantiate(settings.sampler, seed=seed + len(trials))
                study.optimize(objective, n_trials=1, catch=TRIAL_ERRORS, callbacks=[print_trial])
                continue
        if not any(trial.state == TrialState.RUNNING for trial in trials):
            return
        if not is_waiting:
            print("waiting for the trials of other processes")
            is_waiting = True
        time.sleep(settings.heartbeat)
        fail_stale_trials(study)


def _count_begun(trials: Sequence[FrozenTrial]) -> int:
    """How many trials count to the total: a trial that others go on with counts once."""
    retried = set()
    for trial in trials:
        retried.update(retry_history(trial))
    begun = 0
    for trial in trials:
        if trial.state != TrialState.WAITING and trial.number not in retried:
            begun += 1
    return begun


def retry_history(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that a trial goes on with, the first one first."""
    return trial.system_attrs.get("retry_history", [])


class Objective:
    """Trains a trial in a run directory of its own.

    Args:
        fixed: overrides of every trial.
        directory: of the study.
    """

    def __init__(self, space: SearchSpace, fixed: list[str], directory: Path):
        self.space, self.fixed, self.directory = space, fixed, directory
        self.drawing = FileLock(directory / ".lock")

    def __call__(self, trial: Trial) -> float | None:
        """Return the validation accuracy after the last epoch."""
        self.space.suggest(trial)
        self.drawing.release()
        first = [*retry_history(_stored(trial)), trial.number][0]
        name = f"trial-{first:04}"
        overrides = [*self.fixed, *as_overrides(trial.params), f"name={name}"]
        config = compose(overrides, self.directory / name)
        try:
            with RunDirectory(config) as run:
                pruned = "" if run.finished else _fit(config, run, trial)
        except TRIAL_ERRORS as error:
            print(f"trial {trial.number}: {on_one_line(error)}")
            raise
        except (SystemExit, UserError, OSError) as error:  # a signal, or a full disk
            requeue(trial.study, _stored(trial))
            # Optuna records how a trial ended for KeyboardInterrupt, but not for SystemExit
            if isinstance(error, SystemExit):
                raise KeyboardInterrupt(error.code) from None
            raise
        if pruned:
            raise optuna.TrialPruned(pruned)
        return run.score()


def _stored(trial: Trial) -> FrozenTrial:
    """The trial as the study holds it now, with its intermediate values."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def _fit(config: DictConfig, run: RunDirectory, trial: Trial) -> str:
    """Fit and store the result, or why the trial was pruned, which is returned."""
    checkpoint = find_checkpoint(run.path, None)
    data, model, trainer = build(config)
    pruning = Pruning(trial, config.trainer.max_epochs)
    trainer.callbacks.append(pruning)  # pyrefly: ignore[missing-attribute]
    run.start()
    with tracked(trainer, run, config.hyperparameters):
        validation = fit(data, model, trainer, checkpoint)
    if pruning.reason:
        run.write_error(pruning.reason)
        return pruning.reason
    run.finish(summarise(trainer, validation, config.seed))
    return ""


def print_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Print how a trial ended."""
    value = "" if trial.value is None else f", validation accuracy {trial.value:.2%}"
    overrides = " ".join(as_overrides(trial.params))
    print(f"trial {trial.number} {trial.state.name.lower()}{value}: {overrides}")
