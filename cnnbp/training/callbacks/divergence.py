"""What happens when a loss or a weight is no longer a number."""

import logging
from math import isfinite

import torch
from pytorch_lightning import Callback

from cnnbp.errors import UserError

log = logging.getLogger(__name__)


class RollBack(Exception):
    """Training has diverged and is to go on from its last checkpoint, the `times`-th time."""

    def __init__(self, times: int):
        super().__init__(times)
        self.times = times


class Diverged(UserError):
    """Training has diverged and stops."""


class Finite(Callback):
    """Stops training when a loss is NaN or infinite, and lets no such state be saved.

    Args:
        every_n_steps: how often to look; each time waits for the device.
        rollbacks: how often training goes back to the last checkpoint with a lower learning rate before it stops.
        factor: of the learning rate, each time it goes back.

    Raises:
        Diverged: names the step, the learning rate and the last checkpoint.
    """

    def __init__(self, every_n_steps: int = 50, rollbacks: int = 0, factor: float = 0.1):
        self.every_n_steps, self.rollbacks, self.factor = every_n_steps, rollbacks, factor
        self.rolled_back = self.rolled_back_when_saved = 0
        self.steps, self.losses = [], []

    def state_dict(self):
        return {"rolled_back": self.rolled_back}

    def load_state_dict(self, state):
        self.rolled_back_when_saved = state["rolled_back"]
        self.rolled_back = max(self.rolled_back, self.rolled_back_when_saved)

    def on_train_start(self, trainer, module):
        factor = self.factor ** (self.rolled_back - self.rolled_back_when_saved)
        for group in trainer.optimizers[0].param_groups:
            for key in {"lr", "initial_lr", "max_lr", "min_lr"} & set(
                group
            ):  # the last three are the schedules' own
                group[key] *= factor
        for schedule in trainer.lr_scheduler_configs:
            if hasattr(schedule.scheduler, "base_lrs"):
                schedule.scheduler.base_lrs = [
                    rate * factor for rate in schedule.scheduler.base_lrs
                ]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append(trainer.global_step)
        self.losses.append(outputs["loss"])
        if len(self.losses) >= self.every_n_steps:
            self._check(trainer)

    def on_train_epoch_end(self, trainer, module):
        self._check(trainer)

    def on_save_checkpoint(self, trainer, module, checkpoint):
        weights = (weight.isfinite().all() for weight in module.parameters())
        self._check(trainer, all(weights))

    def _check(self, trainer, weights_are_finite: bool = True) -> None:
        losses = torch.stack(self.losses).tolist() if self.losses else []
        wrong = [
            (f"the loss is {x}", step)
            for x, step in zip(losses, self.steps, strict=True)
            if not isfinite(x)
        ]
        if not weights_are_finite:
            wrong.append(("a weight is not finite", trainer.global_step))
        self.steps, self.losses = [], []
        # in one process a loss may go wrong a step before it does in another
        if trainer.strategy.reduce_boolean_decision(bool(wrong), all=False):
            self._give_up(
                trainer,
                *(wrong or [("the loss of another process is not finite", trainer.global_step)])[0],
            )

    def _give_up(self, trainer, what: str, step: int) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        last = getattr(trainer.checkpoint_callback, "newest", None)
        what = f"{what} at step {step}, with learning rate {rate:g}; the last good checkpoint: {last or 'none'}"
        if self.rolled_back >= self.rollbacks:
            raise Diverged(
                f"{what}; give a lower optimizer.lr, or callbacks.finite.rollbacks=3 to go back and lower it"
            )
        log.warning("%s; going back there, with learning rates %g times as high", what, self.factor)
        raise RollBack(self.rolled_back + 1)
