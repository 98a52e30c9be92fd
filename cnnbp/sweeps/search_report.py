"""What a search found: the best trials, the command of the best, importances and pictures."""

import os
import shlex
import warnings
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from cnnbp.config.config_files import own_folders
from cnnbp.files import replacing
from cnnbp.sweeps.leaderboard_formats import table
from cnnbp.sweeps.search_space import as_overrides

BEST_SHOWN = 5
# by the name of the file: Optuna's function
PICTURES = {
    "history": "plot_optimization_history",
    "parallel_coordinates": "plot_parallel_coordinate",
    "importances": "plot_param_importances",
}


def print_report(study: optuna.Study, fixed: list[str], directory: Path) -> None:
    """Print the best trials, the command of the best and the importances; draw pictures.

    Args:
        fixed: the overrides of every trial.
        directory: where the pictures go.
    """
    complete, pruned = [], 0
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            complete.append(trial)
        if trial.state == TrialState.PRUNED:
            pruned += 1
    trials = "trial" if len(complete) == 1 else "trials"
    print(f"\n{len(complete)} {trials} complete, {pruned} pruned")
    if not complete:
        return
    complete.sort(key=lambda trial: -trial.value)
    _print_best(complete[:BEST_SHOWN])
    folders = []
    for folder in own_folders:
        folders += ["--config-dir", os.path.relpath(folder)]
    command = ["python", "train.py", *folders, *fixed, *as_overrides(complete[0].params)]
    print(f"\nthe best: {shlex.join(command)}")
    # importances need differences
    if len({trial.value for trial in complete}) > 1:
        print("\nimportance for the validation accuracy")
        for key, share in optuna.importance.get_param_importances(study).items():
            print(f"{share:6.1%}  {key}")
        draw_pictures(study, directory)


def _print_best(trials: list[FrozenTrial]) -> None:
    rows, columns = [], {}
    for trial in trials:
        row = {"trial": trial.number, "val_accuracy": trial.value, **trial.params}
        rows.append(row)
        columns.update(dict.fromkeys(row))
    print(table(rows, list(columns)))


def draw_pictures(study: optuna.Study, directory: Path) -> None:
    """Write `PICTURES` into a study's directory, where matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("pictures need matplotlib; pip install matplotlib")
        return
    print()
    with warnings.catch_warnings():
        # these pictures are experimental, and warn of an axis with a single value
        warnings.simplefilter("ignore")
        for name, function in PICTURES.items():
            axes = getattr(optuna.visualization.matplotlib, function)(study)
            with replacing(directory / f"{name}.png", "wb") as file:
                axes.figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
            print(directory / f"{name}.png")
