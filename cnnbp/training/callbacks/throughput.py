"""How fast it trains, and at which learning rate."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Speed(Callback):
    """Logs seconds, samples/s and the first learning rate of each epoch's training.

    `total` holds the seconds and samples of all epochs.
    """

    def __init__(self) -> None:
        self.total = {"seconds": 0.0, "samples": 0}
        self.learning_rate = 0.0
        self.epoch_samples, self.epoch_seconds = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.start
        return {
            "total": dict(self.total),
            "epoch": [self.learning_rate, self.epoch_samples, seconds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = dict(state["total"])
        self.learning_rate, self.epoch_samples, self.epoch_seconds = state["epoch"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # of an epoch that is continued in its middle, the seconds before count too
        self.start = time.perf_counter() - self.epoch_seconds

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.epoch_samples = 0
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.epoch_samples += len(batch[1]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:
            if module.device.type == "cuda":
                torch.cuda.synchronize()
            self.epoch_seconds = time.perf_counter() - self.start
            self.total["seconds"] += self.epoch_seconds
            self.total["samples"] += self.epoch_samples

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        values = {
            "learning_rate": self.learning_rate,
            "speed/epoch_seconds": self.epoch_seconds,
            "speed/samples_per_second": self.epoch_samples / self.epoch_seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)
