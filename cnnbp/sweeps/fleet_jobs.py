"""Jobs of a sweep, sorted into fleets: what may differ within one, and how large one may be."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cnnbp.runs.run_directory import RunDirectory, job_failures

# the numbers that jobs of one fleet may differ by
NUMBERS = (
    "seed",
    "data.seed",
    "model.label_smoothing",
    "callbacks.average.decay",
    *(f"optimizer.{key}" for key in ("lr", "weight_decay", "momentum")),
    *(f"scheduler.{key}" for key in ("warmup", "final_lr")),
    *(f"augment.{key}" for key in ("degrees", "shift", "scale", "shear", "elastic", "erase")),
)
# rates that may differ where they are all 0 or all above 0
RATES = ("dropout.rates", "model.network.dropout")
# of the command, not of what is trained
OTHERS = ("name", "jobs", "overwrite", "hyperparameters")


# the job that the running thread works for
CURRENT: ContextVar["FleetJob | None"] = ContextVar("CURRENT", default=None)


class FleetJob:
    """A job of a sweep and what became of it.

    A trial of a search is one too, which is trained, ends and fails in its own way.

    Args:
        overrides: its own, as the sweep gives them.
        number: its place in the sweep.
        config: its config.
        hydra: Hydra's own part of it, for `${hydra:...}`.
    """

    # what messages call the jobs, and the option that trains them side by side
    noun = "jobs"
    option = "launcher=fleet"

    def __init__(self, overrides: list[str], number: int, config: DictConfig, hydra: DictConfig):
        self.overrides, self.number, self.config, self.hydra = overrides, number, config, hydra
        self.path = Path(hydra.hydra.runtime.output_dir)
        # the accuracy that a sweep maximises, or why there is none
        self.score: float | None = None
        self.failure = ""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let `${hydra:...}` and the log be this job's."""
        token = CURRENT.set(self)
        HydraConfig.instance().set_config(self.hydra)
        try:
            yield
        finally:
            CURRENT.reset(token)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let the job fail without stopping the others."""
        with job_failures() as failures:
            yield
        if failures:
            self.failure = failures[0]

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Write what is logged for the job to its train.log, as Hydra lets a parallel job do."""
        options = self.hydra.hydra.job_logging
        handler = logging.FileHandler(options.handlers.file.filename, delay=True)
        handler.setFormatter(logging.Formatter(options.formatters.timed.format))
        handler.addFilter(lambda record: CURRENT.get() is self)
        root = logging.getLogger()
        level = root.level
        root.setLevel(options.root.level)
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            handler.close()

    def train(self, run: RunDirectory, parts: Any, checkpoint: Path | None) -> None:
        """Train, test and store the result, as `train.py` does."""
        # importing it takes seconds, and every command imports the launcher
        from cnnbp.training.build import fit_and_test

        fit_and_test(self.config, run, parts, checkpoint)

    def end(self, score: float | None) -> None:
        """Note that the job has ended without a failure."""
        self.score = score


def kind(config: DictConfig) -> str:
    """What jobs of one fleet have in common: the config less the numbers that may differ."""
    # interpolations stay as they are written, so that a number stands in one place alone
    tree = OmegaConf.to_container(config)
    for key in (*NUMBERS, *OTHERS):
        _replace(tree, key.split("."), lambda value: None)
    for key in RATES:
        _replace(tree, key.split("."), _which_drop)
    return json.dumps(tree, sort_keys=True, default=str)


def _replace(tree: Any, path: Sequence[str], make: Any) -> None:
    """Replace the value under a path of keys, where there is one."""
    *parents, last = path
    for key in parents:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if isinstance(tree, dict) and last in tree:
        tree[last] = make(tree[last])


def _which_drop(rates: Any) -> Any:
    return [rate > 0 for rate in rates] if isinstance(rates, list) else rates


def by_position(
    positions: Sequence[tuple[FleetJob, dict[int, Any]]],
) -> list[tuple[int, list[FleetJob]]]:
    """Sort jobs by a step that each of them can continue from.

    A fleet saves all its members after the same step, each beside the state before it. Killed
    between two saves, its members have the earlier one of them in common.

    Args:
        positions: jobs, each with its saved states by their steps.

    Returns:
        Steps, each with the jobs that continue from it.
    """
    left = list(positions)
    groups = []
    while left:
        step = min(max(states) for _, states in left)
        groups.append((step, [job for job, states in left if step in states]))
        left = [(job, states) for job, states in left if step not in states]
    return groups


def in_parts(jobs: Sequence[FleetJob], most: int) -> list[list[FleetJob]]:
    """Divide jobs into as few parts as possible of nearly equal size, none above `most`."""
    count = -(-len(jobs) // most)
    parts: list[list[FleetJob]] = []
    for index in range(count):
        parts.append(list(jobs[len(jobs) * index // count : len(jobs) * (index + 1) // count]))
    return parts
