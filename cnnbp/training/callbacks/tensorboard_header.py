"""What TensorBoard shows beside the curves: the config, the graph, and the HPARAMS tab."""

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard._pytorch_graph import graph

from cnnbp.errors import on_one_line
from cnnbp.runs.event_files import PATTERN, TEST
from cnnbp.training.trackers import as_plain

log = logging.getLogger(__name__)

# traced once for all the jobs of a sweep that train the same network
GRAPHS: dict[tuple[type, str], Any] = {}


class Board(Callback):
    """Writes the config and the graph at the start, the hyperparameters and results at the end.

    Args:
        config_file: the whole config of the run, in YAML.
        hyperparameters: the few that jobs of a sweep are compared by.
    """

    def __init__(self, config_file: str, hyperparameters: dict):
        self.config_file = Path(config_file)
        self.hyperparameters = {name: as_plain(value) for name, value in hyperparameters.items()}

    def on_train_start(self, trainer, module):
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        start = Event(step=step + 1 if step else 0, session_log=SessionLog(status=SessionLog.START))
        for logger in _boards(trainer):
            # TensorBoard drops the points from there on, which a killed process left
            logger.experiment.file_writer.add_event(start)
            if step == 0:
                # four blanks make it a code block in Markdown
                lines = self.config_file.read_text().splitlines()
                logger.experiment.add_text("config", "\n".join("    " + line for line in lines))
                shape = trainer.datamodule.dataset.image_shape
                _add_graph(logger, module.network, torch.zeros(1, *shape, device=module.device))

    def on_test_start(self, trainer, module):
        if not trainer.is_global_zero:
            return
        for logger in _boards(trainer):
            # the test's points have a file of their own, which a run that was killed before its
            # result replaces
            for old in Path(logger.log_dir).glob(f"{PATTERN}{TEST}"):
                old.unlink()
            logger.experiment.close()
            logger.experiment.filename_suffix = TEST

    def on_test_end(self, trainer, module):
        results = {
            f"hp/{name}": trainer.callback_metrics[f"{name}/test"].item()
            for name in ("accuracy", "loss")
        }
        for logger in _boards(trainer):
            logger.log_hyperparams(self.hyperparameters, results, trainer.global_step)


def _add_graph(logger: TensorBoardLogger, network: torch.nn.Module, image: torch.Tensor) -> None:
    key = image.shape, type(network), str(network)
    if key not in GRAPHS:
        GRAPHS[key] = _trace(network, image)
    if GRAPHS[key] is not None:
        logger.experiment.file_writer.add_graph(GRAPHS[key])


def _trace(network: torch.nn.Module, image: torch.Tensor) -> Any:
    """The graph of a network in evaluation mode; None, with a line, where torch cannot trace it."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            # torch's own writer still traces, and prints errors that it raises
            warnings.simplefilter("ignore")
            return graph(network, image)
    except Exception as error:  # a network of one's own may do anything
        name = type(network).__name__
        log.info("TensorBoard shows no graph of %s: %s", name, on_one_line(error)[:200])
        return None


def _boards(trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
