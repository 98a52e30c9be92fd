"""Averaged weights: what is evaluated and kept in place of the last step's."""

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Average(WeightAveraging):
    """Evaluates and keeps an exponential moving average of the weights and of BatchNorm's running statistics.

    After optimizer step t the average keeps the share min(decay, (1 + t) / (10 + t)) of itself, so that it soon
    forgets the first weights (Polyak and Juditsky, 1992; the warm-up is that of TensorFlow's
    ExponentialMovingAverage). In a checkpoint `state_dict` holds the average, `current_model_state` the weights
    that training continues with.
    """

    def __init__(self, decay: float):
        super().__init__(multi_avg_fn=self._move)
        self.decay = decay

    def _move(self, averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        if averages[0].is_floating_point():
            steps = (
                self._latest_update_step
            )  # known here; reading `updates` would wait for the device
            torch._foreach_lerp_(averages, values, 1 - min(self.decay, (1 + steps) / (10 + steps)))
        else:
            torch._foreach_copy_(averages, values)  # BatchNorm's count of batches

    def on_fit_start(self, trainer, module):
        self._average_model.module.to(
            module.device
        )  # Lightning made it before the model was moved there

    def on_fit_end(self, trainer, module):
        self._copy_average_to_current(
            module
        )  # Lightning leaves it out where there was nothing left to train
