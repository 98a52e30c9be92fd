"""The model card of an exported run: what it is, how accurate, how it was made, its limits."""

import shlex
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnbp.data.datasets import DataSet
from cnnbp.runs.run_record import RunRecord

TEMPLATE = "model_card.md.j2"
# what the card calls it, and its key in the config
RECIPE = {
    "network": "model.network",
    "optimizer": "optimizer",
    "learning rate schedule": "scheduler",
    "epochs": "trainer.max_epochs",
    "batch size": "data.batch_size",
    "augmentation": "augment",
    "loss": "loss",
    "label smoothing": "model.label_smoothing",
    "images held out for validation": "data.val_size",
    "folds": "data.folds",
    "fold held out for validation": "data.fold",
}
# a search reads no test set
SPLITS = {"accuracy": "test", "val_accuracy": "validation"}


class Exported(NamedTuple):
    """The file that a card describes, and how it compares with PyTorch."""

    file: str
    checkpoint: str
    images: int
    difference: float


def render_card(
    run: RunRecord, network: nn.Module, dataset: DataSet, snippet: str, exported: Exported
) -> str:
    """Fill in the card from a run's record and from what was exported.

    Args:
        network, dataset: what was exported, and what it was trained on.
        snippet: how to load the file.
    """
    templates = FileSystemLoader(Path(__file__).parent)
    # Markdown is not HTML: nothing in it is escaped
    environment = Environment(
        loader=templates, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    overrides = []
    for override in run.overrides:
        # another run has another name
        if not override.startswith("name="):
            overrides.append(override)
    return environment.get_template(TEMPLATE).render(
        **exported._asdict(),
        name=run.path.resolve().name,
        seed=run.config.seed,
        dataset=dataset,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        snippet=snippet,
        accuracy=describe_accuracy(run, exported.checkpoint),
        layers=(type(network).__doc__ or type(network).__name__).partition("\n")[0],
        recipe=_recipe(run.config),
        command=shlex.join(["python", "train.py", *overrides]),
    )


def _recipe(config: DictConfig) -> dict[str, str]:
    """What the run was made with, as far as its config has these keys."""
    recipe = {}
    for text, key in RECIPE.items():
        value = OmegaConf.select(config, key)
        if key == "loss" and not value:
            value = "cross-entropy"
        if isinstance(value, DictConfig):
            value = _as_call(value)
        if value is not None:
            recipe[text] = str(value)
    return recipe


def _as_call(part: DictConfig) -> str:
    """A part as it would be written in Python, such as `SGD(lr=0.01)`."""
    options = OmegaConf.to_container(part, resolve=True)
    target = options.pop("_target_", "none").rpartition(".")[2]
    options.pop("_partial_", None)
    if not options:
        return target
    arguments = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{target}({arguments})"


def describe_accuracy(run: RunRecord, checkpoint: str) -> list[str]:
    """Say how accurate a run is, and all beside it that differ by seed, fold and name alone."""
    lines = ["Not known, because the run is unfinished."]
    if run.result is not None:
        shares = []
        for key, split in SPLITS.items():
            if key in run.result:
                shares.append(f"{run.result[key]:.2%} of the {split} images")
        lines = [f"{', '.join(shares)} (seed {run.result['seed']})."]
        if checkpoint == "best":
            lines.append(
                "Measured with the weights after the last epoch; "
                "this file holds those of the best epoch."
            )
    accuracies = _accuracies(run)
    if len(accuracies) > 1:
        values = list(accuracies.values())
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        lines.append(
            f"{mean:.2%} +- {deviation:.2%} over n = {len(accuracies)} {_repeated(accuracies)}, "
            "mean and standard deviation."
        )
    return lines


def _repeated(runs: Iterable[tuple[int, int | None]]) -> str:
    """What runs, by seed and fold, differ by."""
    seeds = sorted({seed for seed, _ in runs})
    folds = sorted({fold for _, fold in runs if fold is not None})
    seed_list = ", ".join(map(str, seeds))
    if not folds:
        return f"seeds ({seed_list})"
    return f"runs (folds {', '.join(map(str, folds))}; seeds {seed_list})"


def _accuracies(run: RunRecord) -> dict[tuple[int, int | None], float]:
    """The test accuracies, by seed and fold, of the runs beside this one with its recipe.

    For its seed and fold it is its own.
    """
    accuracies: dict[tuple[int, int | None], float] = {}
    for folder in sorted(run.path.resolve().parent.iterdir()):
        other = RunRecord(folder)
        if other.exists and other.recipe == run.recipe:
            _add_accuracy(accuracies, other)
    # last, so that it replaces that of another run with its seed and fold
    _add_accuracy(accuracies, run)
    return accuracies


def _add_accuracy(accuracies: dict[tuple[int, int | None], float], run: RunRecord) -> None:
    if run.result is not None and "accuracy" in run.result:
        accuracies[run.result["seed"], run.fold] = run.result["accuracy"]
