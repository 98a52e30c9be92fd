"""Learning-rate schedules, by Lightning's lr_scheduler_config.

Each maps an optimizer, the number of epochs and the optimizer steps of an epoch to one.
"""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer, lr_scheduler


def step(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, every: int, gamma: float
) -> dict[str, Any]:
    """Multiply the learning rate by `gamma` after every `every` epochs."""
    return {"scheduler": lr_scheduler.StepLR(optimizer, every, gamma), "interval": "epoch"}


def linear(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, final_lr: float
) -> dict[str, Any]:
    """Rise for the share `warmup` of all steps, then fall in a line to `final_lr`."""
    return _annealed(
        optimizer, epochs * steps_per_epoch, warmup, final_lr, height=lambda share: 1 - share
    )


def cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, final_lr: float
) -> dict[str, Any]:
    """Rise for the share `warmup` of all steps, then fall in half a cosine to `final_lr`.

    Source: Loshchilov and Hutter, 2017.
    """

    def height(share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2

    return _annealed(optimizer, epochs * steps_per_epoch, warmup, final_lr, height)


def _annealed(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float,
    final_lr: float,
    height: Callable[[float], float],
) -> dict[str, Any]:
    """Rise to the optimizer's rate, then fall as `height` does from 1 to 0."""
    rise = round(warmup * total_steps)
    final = final_lr / optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return final + (1 - final) * height((step - rise) / (total_steps - rise))

    schedule = lr_scheduler.LambdaLR(optimizer, factor)
    # goes into checkpoints, so that one for another length is refused
    schedule.total_steps = total_steps
    return {"scheduler": schedule, "interval": "step"}


def one_cycle(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, **options: Any
) -> dict[str, Any]:
    """Rise for the share `warmup` of all steps to the optimizer's rate, then anneal.

    Source: Smith and Topin, 2018.
    """
    schedule = lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=epochs * steps_per_epoch,
        pct_start=warmup,
        cycle_momentum=False,
        **options,
    )
    return {"scheduler": schedule, "interval": "step"}


def plateau(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, factor: float, patience: int
) -> dict[str, Any]:
    """Multiply the rate by `factor` when the loss has not fallen for `patience` epochs."""
    return {
        "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience),
        "interval": "epoch",
    }
