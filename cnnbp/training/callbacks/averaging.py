"""Averaged weights, which are evaluated and kept in place of the last step's."""

from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from cnnbp.training.moving_average import MovingAverage


class Average(WeightAveraging):
    """Evaluates and keeps an exponential moving average of weights and running statistics.

    After optimizer step t the average keeps the share min(decay, (1 + t) / (10 + t)) of itself, so
    that it soon forgets the first weights. In a checkpoint `state_dict` holds the average,
    `current_model_state` the weights that training continues with.
    Source: Polyak and Juditsky, 1992; the warm-up is that of TensorFlow's
    ExponentialMovingAverage.

    A module whose training step moves the average by itself takes it by `for_step`; with any other,
    it is moved after each step.
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay
        self.average: MovingAverage | None = None
        self.is_in_step = False

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning made the average before the model was moved to its device
        self._averages().to(module.device)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning calls this before the hook of the module, which may take the average
        self.average = MovingAverage(_tensors(self._averages()), _tensors(module))
        self.is_in_step = False

    def for_step(self) -> MovingAverage:
        """The average, for a step that moves it after each `prepare`."""
        assert self.average is not None
        self.is_in_step = True
        return self.average

    def prepare(self) -> None:
        """Set how far the average moves in the optimizer step that comes next."""
        assert self.average is not None
        # known here; the count of Lightning's averaged model lies on the device
        steps = self._latest_update_step
        kept = min(self.decay, (1 + steps) / (10 + steps)) if steps else 0
        self.average.set_share(1 - kept)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._latest_update_step:
            # between the batches of an optimizer step
            return
        if not self.is_in_step:
            self.prepare()
            assert self.average is not None
            self.average.move()
        self._latest_update_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is not None:
            self._average_model.n_averaged.fill_(self._latest_update_step)
        super().on_save_checkpoint(trainer, module, checkpoint)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning leaves this out where there was nothing left to train
        self._copy_average_to_current(module)

    def _averages(self) -> torch.nn.Module:
        assert self._average_model is not None
        return self._average_model.module


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    """All that is averaged, in an order that copies of a module share."""
    return list(chain(module.parameters(), module.buffers()))
