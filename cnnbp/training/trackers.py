"""Loggers, and the experiment trackers among them: a run directory is one run of each tracker.

A continued run goes on in the same tracker run, whose id the run directory keeps. A tracker run is
closed when its job ends, because the next job of a sweep may run in the same process.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cnnbp.errors import UserError, on_one_line
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.runs.run_record import TRACKERS, RunRecord

# what they say of their own making, once for each database and each experiment
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)


class Kind(NamedTuple):
    """A kind of tracker: its package, which is also our extra, and its argument for a run's id."""

    package: str
    id_argument: str


KINDS = {
    "pytorch_lightning.loggers.MLFlowLogger": Kind("mlflow", "run_id"),
    "pytorch_lightning.loggers.WandbLogger": Kind("wandb", "id"),
}


def make_loggers(config: DictConfig) -> list[Logger]:
    """Build the loggers of a config; a tracker will go on with the run that the directory names.

    Raises:
        UserError: a tracker's package is missing, or the tracker cannot be reached.
    """
    known = RunRecord(config.run_dir).trackers
    loggers = []
    for name, part in config.logger.items():
        if part is None:
            continue
        kind = KINDS.get(part["_target_"])
        if kind is None:
            logger = instantiate(part)
            if not isinstance(logger, Logger):
                raise UserError(f"logger.{name}: must be a pytorch_lightning.loggers.Logger")
            loggers.append(logger)
            continue
        if not find_spec(kind.package):
            raise UserError(
                f"logger.{name}: needs the package {kind.package}; "
                f"pip install 'cnnbp[{kind.package}]'"
            )
        options = {}
        if kind.package in known:
            options[kind.id_argument] = known[kind.package]
        with _errors_named(kind.package), _alone_with(part.get("tracking_uri", "")):
            loggers.append(instantiate(part, **options))
    return loggers


@contextmanager
def _errors_named(tracker: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # trackers raise errors of many kinds
        raise UserError(
            f"logger={tracker}: {on_one_line(error)}; "
            f"to log to a new run of it, remove it from {TRACKERS}"
        ) from error


@contextmanager
def _alone_with(database: str) -> Iterator[None]:
    """Let one process at a time open a SQLite file: each job of a sweep would make its tables."""
    if not database.startswith("sqlite:///"):
        yield
        return
    file = Path(database.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        yield


@contextmanager
def tracked(
    trainer: Trainer, run: RunDirectory, hyperparameters: Mapping[str, Any]
) -> Iterator[None]:
    """Open the runs of trackers, log hyperparameters, and close the runs when the job ends.

    TensorBoard's hyperparameters are logged by the callback `Board`, with the results.

    Raises:
        UserError: a tracker cannot be reached, or does not know the run any more.
    """
    if not trainer.is_global_zero:
        yield
        return
    plain = {name: as_plain(value) for name, value in hyperparameters.items()}
    # W&B would write to the terminal between our lines
    os.environ.setdefault("WANDB_SILENT", "true")
    ids = {}
    status = "FAILED"
    try:
        for logger in trainer.loggers:
            if isinstance(logger, MLFlowLogger):
                with _errors_named("mlflow"), _alone_with(logger._tracking_uri):
                    ids["mlflow"] = str(logger.run_id)
                    # a continued run has ended before
                    logger.experiment.update_run(logger.run_id, status="RUNNING")
            if isinstance(logger, WandbLogger):
                with _errors_named("wandb"):
                    ids["wandb"] = str(logger.experiment.id)
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(plain)
        run.keep_trackers(ids)
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        for logger in trainer.loggers:
            _close(logger, status)


def _close(logger: Logger, status: str) -> None:
    if isinstance(logger, MLFlowLogger) and logger._initialized:
        logger.experiment.set_terminated(logger.run_id, status)
    # which may not have been opened
    if isinstance(logger, WandbLogger) and logger._experiment is not None:
        logger.experiment.finish(exit_code=0 if status == "FINISHED" else 1)


def as_plain(value: Any) -> bool | int | float | str:
    """A hyperparameter as trackers take it: a list becomes a text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
