"""Search over any keys of the config with Optuna: trials are run directories, compared on validation images alone."""

import fcntl
import json
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cnnbp.config.compose import compose
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.runs.checkpoint_file import newest
from cnnbp.runs.run_directory import LOCK, Run, refuse_another_kind, refuse_several_processes, told
from cnnbp.sweeps.leaderboard import table
from cnnbp.sweeps.pruning import Pruning
from cnnbp.training.build import build, fit, summarise
from cnnbp.training.callbacks.divergence import Diverged

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings(
    "ignore", message="The reported value is ignored"
)  # of a trial that goes on
optuna.logging.set_verbosity(
    optuna.logging.CRITICAL
)  # it prints tracebacks of mistakes that are told in one line

MOST_RETRIES = 3  # of a trial whose process died; it may be the trial that kills it
BEST_SHOWN = 5
FAILURES = (Diverged, RuntimeError)  # of one trial; the latter for example with too little memory
RANGE = {"low", "high", "log", "step"}
PICTURES = {
    "history": "plot_optimization_history",
    "parallel_coordinates": "plot_parallel_coordinate",
    "importances": "plot_param_importances",
}

Space = dict[str, list | dict[str, Any]]


def search(arguments: Sequence[str]) -> None:
    """Run trials until the study has its `search.n_trials`, then print and draw what it found.

    The same command continues a study, also from several processes at once; each trial is a run directory below the
    study's. Stopped by Ctrl-C, or with its process killed, a trial is taken up again from its last checkpoint.

    Args:
        arguments: overrides of the config, among them perhaps `search=CHOICE` and `search.KEY=VALUE`.

    Raises:
        UserError: the space does not fit the config, the storage cannot be used or holds a study of something else.
    """
    choice = next((text for text in arguments if text.startswith("search=")), "search=default")
    options = compose([f"+{choice}", *(text for text in arguments if text != choice)])
    OmegaConf.resolve(options.search)
    settings, entries = options.search, OmegaConf.to_container(options.search.space)
    space = {key: domain for key, domain in entries.items() if domain is not None}
    directory = Path(HydraConfig.get().run.dir)
    given = [text for text in arguments if not re.match(r"[+~]*(search[.=]|name=)", text)]
    overrides = list(
        {
            text.partition("=")[0].lstrip("+"): text for text in [*settings.overrides, *given]
        }.values()
    )
    check(space, overrides)
    refuse_another_kind(directory, "study")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        study = open_study(settings, directory.name, {"overrides": overrides, "space": space})
        run_trials(
            study,
            settings,
            options.seed,
            lambda trial: train(trial, space, overrides, directory),
            directory,
        )
        report(study, overrides, directory)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ImportError) as error:
        with suppress(OSError):
            directory.rmdir()  # where nothing is in it
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"{settings.storage}: {reason}; what is stored in the study stays"
        ) from None
    except KeyboardInterrupt as stop:
        print(f"\nstopped; the same command with name={directory.name} continues the study")
        sys.exit(stop.args[0])


def check(space: Space, overrides: list[str]) -> None:
    """Raise a UserError unless every choice and both ends of every range are valid values of the config."""
    if not space:
        raise UserError(
            "search.space: is empty; give the keys to search over, as in conf/search/default.yaml"
        )
    for key, domain in space.items():
        if isinstance(domain, dict):
            if not {"low", "high"} <= domain.keys() <= RANGE:
                raise UserError(
                    f"search.space.{key}: must be a list of choices, or {{low, high}} with log or step"
                )
            try:
                if domain["low"] >= domain["high"]:
                    raise ValueError(f"low={domain['low']} must be less than high={domain['high']}")
                _distribution(domain)(**domain)
            except (TypeError, ValueError) as error:
                raise UserError(f"search.space.{key}: {error}") from None
        elif not isinstance(domain, list) or not domain:
            raise UserError(
                f"search.space.{key}: must be a list of choices, or {{low, high}} with log or step"
            )
    ends = {
        key: [domain["low"], domain["high"]] if isinstance(domain, dict) else domain
        for key, domain in space.items()
    }
    for index in range(max(map(len, ends.values()))):
        config = compose(
            [*overrides, *_as_overrides({key: end[index % len(end)] for key, end in ends.items()})]
        )
        refuse_several_processes(config)
        if not config.data.val_size:
            raise UserError(
                "data.val_size=0: a search compares on validation images; give data.val_size=5000"
            )
        if (config.callbacks.get("finite") or {}).get("rollbacks"):
            raise UserError(
                "callbacks.finite.rollbacks: a search gives up a trial that diverges; give 0"
            )


def _distribution(domain: dict[str, Any]) -> type[BaseDistribution]:
    whole = isinstance(domain["low"], int) and isinstance(domain["high"], int)
    return IntDistribution if whole else FloatDistribution


def _as_overrides(values: dict[str, Any]) -> list[str]:
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]


def open_study(settings: DictConfig, name: str, content: dict[str, Any]) -> optuna.Study:
    """Create a study or load it, and refuse one of another space or other fixed overrides."""
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
    if differing := [key for key in content if known.get(key) != content[key]]:
        changes = "; ".join(f"{key}: {known.get(key)} -> {content[key]}" for key in differing)
        raise UserError(
            f"the study {name} was made with another search ({changes}); give another name="
        )
    for key, value in content.items():
        study.set_user_attr(key, value)
    return study


def run_trials(
    study: optuna.Study,
    settings: DictConfig,
    seed: int,
    objective: Callable[[Trial], float],
    directory: Path,
) -> None:
    """Add trials up to the total, and wait for those of other processes, whose trials it takes over when they die."""
    waiting = False
    with (directory / LOCK).open("a") as lock:

        def begin(trial: Trial) -> float:
            fcntl.flock(lock, fcntl.LOCK_UN)
            return objective(trial)

        while True:
            fcntl.flock(
                lock, fcntl.LOCK_EX
            )  # until the trial is stored: no two processes count, or draw, alike
            trials = study.get_trials(deepcopy=False)
            retried = {
                number
                for trial in trials
                for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)
            }
            begun = [
                trial
                for trial in trials
                if trial.state != TrialState.WAITING and trial.number not in retried
            ]
            if len(begun) < settings.n_trials:
                # the draws of a trial follow from the seed and its number, so that a continued study draws anew
                study.sampler = instantiate(settings.sampler, seed=seed + len(trials))
                study.optimize(begin, n_trials=1, catch=FAILURES, callbacks=[tell])
                continue
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not any(trial.state == TrialState.RUNNING for trial in begun):
                return
            if not waiting:
                print("waiting for the trials of other processes")
                waiting = True
            time.sleep(settings.heartbeat)
            fail_stale_trials(study)


def tell(study: optuna.Study, trial: FrozenTrial) -> None:
    """Print how a trial ended."""
    value = f", validation accuracy {trial.value:.2%}" if trial.value is not None else ""
    print(
        f"trial {trial.number} {trial.state.name.lower()}{value}: {' '.join(_as_overrides(trial.params))}"
    )


def train(trial: Trial, space: Space, overrides: list[str], directory: Path) -> float:
    """Train one trial in its run directory; return the validation accuracy after the last epoch."""
    for key, domain in space.items():
        if isinstance(domain, list):
            trial.suggest_categorical(
                key, [json.dumps(item) if isinstance(item, list) else item for item in domain]
            )
        elif _distribution(domain) is IntDistribution:
            trial.suggest_int(key, **domain)
        else:
            trial.suggest_float(key, **domain)
    tried = RetryHeartbeatStaleTrialCallback.retry_history(_record(trial))
    name = f"trial-{[*tried, trial.number][0]:04}"
    config = compose([*overrides, *_as_overrides(trial.params), f"name={name}"], directory / name)
    try:
        with Run(config) as run:
            pruned = "" if run.finished else _fit(config, run, trial)
    except FAILURES as error:
        print(f"trial {trial.number}: {told(error)}")
        raise
    except (
        SystemExit,
        UserError,
        OSError,
    ) as error:  # a signal that stopped the run, or a full disk
        requeue(trial.study, _record(trial))
        # Optuna records how a trial ended for this one, but not for SystemExit
        raise (KeyboardInterrupt(error.code) if isinstance(error, SystemExit) else error) from None
    if pruned:
        raise optuna.TrialPruned(pruned)
    return run.score()


def _record(trial: Trial) -> FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


requeue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


def _fit(config: DictConfig, run: Run, trial: Trial) -> str:
    """Fit and store the result, or why the trial was pruned, which is returned."""
    checkpoint = newest(run.path / "checkpoints")
    data, model, trainer = build(config)
    pruning = Pruning(trial)
    trainer.callbacks.append(pruning)
    run.start()
    validation = fit(data, model, trainer, checkpoint)
    if pruning.reason:
        with replacing(run.path / "error.txt") as file:
            file.write(pruning.reason + "\n")
        return pruning.reason
    run.finish(summarise(trainer, validation, config.seed))
    return ""


def report(study: optuna.Study, overrides: list[str], directory: Path) -> None:
    """Print the best trials, the command of the best and the importances; draw what Optuna has pictures of."""
    trials = study.get_trials(deepcopy=False)
    complete = sorted(
        (trial for trial in trials if trial.state == TrialState.COMPLETE),
        key=lambda trial: -trial.value,
    )
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    print(f"\n{len(complete)} trial{'s' * (len(complete) != 1)} complete, {pruned} pruned")
    if not complete:
        return
    best = [
        {"trial": trial.number, "val_accuracy": trial.value, **trial.params}
        for trial in complete[:BEST_SHOWN]
    ]
    print(table(best, list({column: None for row in best for column in row})))
    print(
        f"\nthe best: {shlex.join(['python', 'train.py', *overrides, *_as_overrides(complete[0].params)])}"
    )
    if len({trial.value for trial in complete}) > 1:
        print("\nimportance for the validation accuracy")
        for key, share in optuna.importance.get_param_importances(study).items():
            print(f"{share:6.1%}  {key}")
        draw(study, directory)


def draw(study: optuna.Study, directory: Path) -> None:
    """Write `PICTURES` into a study's directory, where matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("pictures need matplotlib; pip install matplotlib")
        return
    print()
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="optuna.visualization"
    )  # of axes with one value
    for name, function in PICTURES.items():
        axes = getattr(optuna.visualization.matplotlib, function)(study)
        with replacing(directory / f"{name}.png", "wb") as file:
            axes.figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
        pyplot.close("all")
        print(directory / f"{name}.png")
