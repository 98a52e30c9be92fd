"""How fast it trains, and at which learning rate."""

import time

import torch
from pytorch_lightning import Callback


class Speed(Callback):
    """Logs seconds and samples/s of each epoch's training and its first learning rate; keeps the totals."""

    def __init__(self):
        self.total = {"seconds": 0.0, "samples": 0}
        self.learning_rate, self.epoch_samples, self.epoch_seconds = None, 0, 0.0

    def state_dict(self):
        seconds = time.perf_counter() - self.start
        return {
            "total": dict(self.total),
            "epoch": [self.learning_rate, self.epoch_samples, seconds],
        }

    def load_state_dict(self, state):
        self.total = dict(state["total"])
        self.learning_rate, self.epoch_samples, self.epoch_seconds = state["epoch"]

    def on_train_start(self, trainer, module):
        self.start = (
            time.perf_counter() - self.epoch_seconds
        )  # of an epoch that is continued in its middle

    def on_train_epoch_start(self, trainer, module):
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.epoch_samples = 0
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.epoch_samples += len(batch[1]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:
            if module.device.type == "cuda":
                torch.cuda.synchronize()
            self.epoch_seconds = time.perf_counter() - self.start
            self.total["seconds"] += self.epoch_seconds
            self.total["samples"] += self.epoch_samples

    def on_train_epoch_end(self, trainer, module):
        values = {
            "learning_rate": self.learning_rate,
            "speed/epoch_seconds": self.epoch_seconds,
            "speed/samples_per_second": self.epoch_samples / self.epoch_seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)
