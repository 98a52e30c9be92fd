"""What a person reads while it trains: a bar that moves in place, and the lines of the published log."""

import logging
import sys
import time

from pytorch_lightning import Callback
from tqdm import tqdm

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.1


class Progress(Callback):
    """Shows a moving bar on a terminal; logs one bar line and one result line an epoch everywhere."""

    def on_train_start(self, trainer, module):
        self.on_train_epoch_start(
            trainer, module
        )  # Lightning leaves it out where a run continues mid-epoch

    def on_train_epoch_start(self, trainer, module):
        self.start = self.shown = time.monotonic()
        # where a launcher sends the log to a file alone, it shows itself how far its jobs are
        told = any(
            type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers
        )
        hidden = not (told and trainer.is_global_zero and sys.stderr.isatty())
        self.bar = tqdm(
            total=trainer.num_training_batches, leave=False, disable=hidden, mininterval=0
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        now = time.monotonic()
        last = batch_idx + 1 == trainer.num_training_batches
        if not last and (self.bar.disable or now - self.shown < REFRESH_SECONDS):
            return
        self.shown = now
        # reading the loss waits for the device, so it is done only when it is shown
        title = f"loss={outputs['loss'].item():.4f} batch_id={batch_idx}"
        if last:
            self.bar.close()
            _tell(
                trainer,
                tqdm.format_meter(
                    batch_idx + 1, trainer.num_training_batches, now - self.start, prefix=title
                ),
            )
        else:
            self.bar.set_description_str(title, refresh=False)
            self.bar.update(batch_idx + 1 - self.bar.n)

    def on_validation_end(self, trainer, module):
        stage = trainer.datamodule.epoch_stage
        _tell(trainer, _result_line(trainer, stage))

    def on_test_end(self, trainer, module):
        if trainer.datamodule.epoch_stage == "val":
            _tell(trainer, _result_line(trainer, "test"))

    def on_exception(self, trainer, module, exception):
        if hasattr(self, "bar"):
            self.bar.close()


def _result_line(trainer, stage: str) -> str:
    loss, accuracy = (
        trainer.callback_metrics[f"{name}/{stage}"].item() for name in ("loss", "accuracy")
    )
    batches = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    data = trainer.datamodule
    seen = min(len(data.splits[stage][1]), sum(batches) * data.eval_batch_size)
    return result_line(stage, loss, accuracy, seen)


def result_line(stage: str, loss: float, accuracy: float, total: int) -> str:
    """The published log's line, as in `Test set: Average loss: 0.0172, Accuracy: 9942/10000 (99.42%)`."""
    name = {"val": "Validation", "test": "Test"}[stage]
    return f"{name} set: Average loss: {loss:.4f}, Accuracy: {round(accuracy * total)}/{total} ({accuracy:.2%})"


def _tell(trainer, line: str) -> None:
    if trainer.is_global_zero:
        log.info(line)
