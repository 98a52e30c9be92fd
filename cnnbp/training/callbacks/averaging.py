"""Averaged weights, which are evaluated and kept in place of the last step's."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Average(WeightAveraging):
    """Evaluates and keeps an exponential moving average of weights and running statistics.

    After optimizer step t the average keeps the share min(decay, (1 + t) / (10 + t)) of itself, so
    that it soon forgets the first weights. In a checkpoint `state_dict` holds the average,
    `current_model_state` the weights that training continues with.
    Source: Polyak and Juditsky, 1992; the warm-up is that of TensorFlow's
    ExponentialMovingAverage.
    """

    def __init__(self, decay: float):
        super().__init__(multi_avg_fn=self._move)
        self.decay = decay

    def _move(self, averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        if averages[0].is_floating_point():
            # known here; reading `updates` would wait for the device
            steps = self._latest_update_step
            share = min(self.decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(averages, values, 1 - share)
        else:
            # BatchNorm's count of batches
            torch._foreach_copy_(averages, values)

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning made the average before the model was moved to its device
        self._average_model.module.to(module.device)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning leaves this out where there was nothing left to train
        self._copy_average_to_current(module)
