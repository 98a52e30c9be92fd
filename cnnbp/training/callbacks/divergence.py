"""What happens when a loss or a weight becomes NaN or infinite."""

from math import isfinite
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.training.callbacks.host_copy import HostCopy


class Diverged(UserError):
    """Training has diverged and stops."""


class Finite(Callback):
    """Stops training when a loss is NaN or infinite, and lets no such state be saved.

    Args:
        every_n_steps: how often to look; on a GPU at the losses of one look before, which need not
            be waited for.

    Raises:
        Diverged: names the step, the learning rate and the last checkpoint.
    """

    def __init__(self, every_n_steps: int = 50):
        self.every_n_steps = every_n_steps
        self.steps: list[int] = []
        self.losses: list[Tensor] = []
        # on their way from the device
        self.coming: list[tuple[list[int], HostCopy]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(trainer.global_step)
        self.losses.append(outputs["loss"])
        if len(self.losses) >= self.every_n_steps:
            self._send()
            newest = self.coming[-1][1]
            # the same ones in all processes, whichever have come
            self._check(trainer, len(self.coming) - int(newest.is_late))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._check_all(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check_all(trainer, all(weight.isfinite().all() for weight in module.parameters()))

    def _send(self) -> None:
        if self.losses:
            self.coming.append((self.steps, HostCopy(torch.stack(self.losses))))
            self.steps, self.losses = [], []

    def _check_all(self, trainer: Trainer, weights_are_finite: bool = True) -> None:
        self._send()
        self._check(trainer, len(self.coming), weights_are_finite)

    def _check(self, trainer: Trainer, count: int, weights_are_finite: bool = True) -> None:
        """Look at the first `count` of the copies."""
        reasons = []
        for steps, losses in self.coming[:count]:
            for loss, step in zip(losses.read(), steps, strict=True):
                if not isfinite(loss):
                    reasons.append((f"the loss is {loss}", step))
        del self.coming[:count]
        if not weights_are_finite:
            reasons.append(("a weight is not finite", trainer.global_step))
        # in one process a loss may diverge a step before it does in another
        if trainer.strategy.reduce_boolean_decision(bool(reasons), all=False):
            other = ("the loss of another process is not finite", trainer.global_step)
            self._stop(trainer, *(reasons or [other])[0])

    def _stop(self, trainer: Trainer, reason: str, step: int) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        last = getattr(trainer.checkpoint_callback, "newest", None)
        raise Diverged(
            f"{reason} at step {step}, with learning rate {rate:g}; "
            f"the last good checkpoint: {last or 'none'}; give a lower optimizer.lr"
        )
