"""Which states of a run are kept, and how a signal stops it."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Checkpoint

from cnnbp.runs.run_record import BEST, LAST, PREVIOUS
from cnnbp.signals import REQUEUE, exit_at_once, on_stop

log = logging.getLogger(__name__)

# What is asked for where it is no signal. The signals that are handled have higher numbers, so that
# of several processes' requests the highest counts.
NOTHING, SAVE = 0, 1


class Requests:
    """What is asked of a training after a step, of all those of a fleet alike: to save, or to stop.

    Args:
        every_n_seconds: how often to save.
    """

    def __init__(self, every_n_seconds: float):
        self.every_n_seconds = every_n_seconds
        self.saved = time.monotonic()
        self.signal, self.asked = 0, NOTHING

    def renew(self) -> None:
        """Decide what is asked for: the signal that came, else SAVE when it is time."""
        is_time = time.monotonic() - self.saved >= self.every_n_seconds
        self.asked = self.signal or (SAVE if is_time else NOTHING)

    def on_signal(self, number: int, frame: Any) -> None:
        """Stop the trainings after a step; by a second signal the process at once."""
        if self.signal:
            exit_at_once(number)
        self.signal = number


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` after each epoch and every so many seconds.

    The checkpoint before it becomes `previous.ckpt`. Where there is a validation split, `best.ckpt`
    is kept by its accuracy. A signal to stop ends the run after the step it is in, and after a
    save, with exit status 143 (SIGTERM) or 130 (SIGINT); in a Slurm job SIGUSR1 also puts the job
    back into the queue. A second signal ends the run at once.

    Args:
        every_n_seconds: how much training a kill or a power cut may cost.
    """

    def __init__(self, directory: str, every_n_seconds: float = 60):
        self.directory = Path(directory)
        self.best_accuracy = -1.0
        self.requests = Requests(every_n_seconds)
        self.is_in_fleet = False

    def join_fleet(self, requests: Requests) -> None:
        """Save and stop after the steps after which all members do; the fleet renews `requests`."""
        self.requests, self.is_in_fleet = requests, True

    @property
    def newest(self) -> Path | None:
        """The last checkpoint, where there is one."""
        for path in (self.directory / LAST, self.directory / PREVIOUS):
            if path.exists():
                return path
        return None

    def state_dict(self):
        return {"best_accuracy": self.best_accuracy}

    def load_state_dict(self, state):
        self.best_accuracy = state["best_accuracy"]

    def on_train_start(self, trainer, module):
        # a run that goes on from the one before the last found the last one damaged, and must not
        # keep that
        is_last_damaged = trainer.ckpt_path and Path(trainer.ckpt_path).name == PREVIOUS
        self.keep = None if is_last_damaged else PREVIOUS
        self.requests.saved = time.monotonic()
        # in the place of Lightning's handlers
        on_stop(self.requests.on_signal)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        batches = batch_idx + 1
        # after the last batch comes the evaluation, which a run continued from here would leave out
        if batches == trainer.num_training_batches or batches % module.accumulate:
            return
        asked = self._asked(trainer)
        if asked:
            self._save(trainer)
            self._stop(trainer, asked)

    def on_train_epoch_end(self, trainer, module):
        accuracy = trainer.callback_metrics.get("accuracy/val")
        if accuracy is not None and accuracy > self.best_accuracy:
            self.best_accuracy = accuracy.item()
            trainer.save_checkpoint(self.directory / BEST, weights_only=False)
        self._save(trainer)
        self._stop(trainer, self._asked(trainer))

    def on_train_end(self, trainer, module):
        on_stop(exit_at_once)
        # a fleet stops when all its members have ended
        if not self.is_in_fleet:
            self._stop(trainer, self.requests.signal)

    def on_test_start(self, trainer, module):
        # there is nothing to save
        on_stop(exit_at_once)

    def _asked(self, trainer) -> int:
        """The signal that came, else SAVE when it is time, else NOTHING; alike in all processes."""
        if not self.is_in_fleet:
            self.requests.renew()
        asked = self.requests.asked
        if trainer.world_size > 1:
            asked = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(asked, reduce_op="max"))
        return asked

    def _save(self, trainer) -> None:
        for logger in trainer.loggers:
            # no point may be missing that lies before the checkpoint
            logger.save()
        keep = self.keep and self.directory / self.keep
        trainer.save_checkpoint(self.directory / LAST, weights_only=False, storage_options=keep)
        self.keep = PREVIOUS
        self.requests.saved = time.monotonic()

    def _stop(self, trainer, asked: int) -> None:
        if asked in (NOTHING, SAVE):
            return
        if asked == REQUEUE and trainer.is_global_zero and not self.is_in_fleet:
            requeue_job()
        sys.exit(128 + asked)


def requeue_job() -> None:
    """Put this Slurm job back into the queue; log how that went."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.info("job %s is in the queue again", job)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        log.warning("job %s could not be queued again (%s): give the same command", job, reason)
