"""What a person reads while a network trains: a moving bar, and the lines of the published log."""

import logging
import sys
import time

from pytorch_lightning import Callback, Trainer
from tqdm import tqdm

from cnnbp.training.callbacks.host_copy import HostCopy

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.1


class Progress(Callback):
    """Shows a moving bar on a terminal; logs one bar line and one result line an epoch."""

    def on_train_start(self, trainer, module):
        # Lightning leaves this hook out where a run continues in the middle of an epoch
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer, module):
        self.start = self.shown = time.monotonic()
        # a loss that is to be shown, and the number of its batch
        self.coming: tuple[HostCopy, int] | None = None
        # a launcher that sends the log to a file alone shows the progress of its jobs itself
        handlers = logging.getLogger().handlers + logging.getLogger("cnnbp").handlers
        logs_to_terminal = any(type(handler) is logging.StreamHandler for handler in handlers)
        is_watched = sys.stderr.isatty() or _in_notebook()
        is_shown = logs_to_terminal and trainer.is_global_zero and is_watched
        total = trainer.num_training_batches
        self.bar = tqdm(total=total, leave=False, disable=not is_shown, mininterval=0)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx + 1 == trainer.num_training_batches:
            self._end_epoch(trainer, outputs["loss"].item(), batch_idx)
        elif not self.bar.disable:
            self._move_bar(outputs["loss"], batch_idx)

    def _move_bar(self, loss, batch_idx):
        """Show the newest loss that has come from the device, a few times a second."""
        now = time.monotonic()
        if self.coming is None and now - self.shown >= REFRESH_SECONDS:
            self.shown, self.coming = now, (HostCopy(loss), batch_idx)
        if self.coming is None or not self.coming[0].is_here():
            return
        copy, batch_idx = self.coming
        self.coming = None
        self.bar.set_description_str(_title(copy.read()[0], batch_idx), refresh=False)
        self.bar.update(batch_idx + 1 - self.bar.n)

    def _end_epoch(self, trainer, loss, batch_idx):
        """Log the whole bar in one line."""
        self.bar.close()
        seconds, title = time.monotonic() - self.start, _title(loss, batch_idx)
        total = trainer.num_training_batches
        _log_once(trainer, tqdm.format_meter(batch_idx + 1, total, seconds, prefix=title))

    def on_validation_end(self, trainer, module):
        stage = trainer.datamodule.epoch_stage
        _log_once(trainer, _result_line(trainer, stage))

    def on_test_end(self, trainer, module):
        if trainer.datamodule.epoch_stage == "val":
            _log_once(trainer, _result_line(trainer, "test"))

    def on_exception(self, trainer, module, exception):
        if hasattr(self, "bar"):
            self.bar.close()


def _in_notebook() -> bool:
    """Whether this is a cell of a notebook, whose output moves although it is no terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _title(loss: float, batch_idx: int) -> str:
    return f"loss={loss:.4f} batch_id={batch_idx}"


def _result_line(trainer: Trainer, stage: str) -> str:
    loss = trainer.callback_metrics[f"loss/{stage}"].item()
    accuracy = trainer.callback_metrics[f"accuracy/{stage}"].item()
    batches = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    data = trainer.datamodule
    seen = min(len(data.splits[stage][1]), sum(batches) * data.eval_batch_size)
    return result_line(stage, loss, accuracy, seen)


def result_line(stage: str, loss: float, accuracy: float, total: int) -> str:
    """The line of the published log.

    As in `Test set: Average loss: 0.0172, Accuracy: 9942/10000 (99.42%)`.
    """
    name = {"val": "Validation", "test": "Test"}[stage]
    correct = round(accuracy * total)
    return f"{name} set: Average loss: {loss:.4f}, Accuracy: {correct}/{total} ({accuracy:.2%})"


def _log_once(trainer: Trainer, line: str) -> None:
    """Log a line in the first process of a run."""
    if trainer.is_global_zero:
        log.info(line)
