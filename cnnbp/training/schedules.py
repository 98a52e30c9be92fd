"""Learning-rate schedules: each maps (optimizer, epochs, steps_per_epoch) to Lightning's lr_scheduler_config."""

import math
from collections.abc import Callable

from torch.optim import Optimizer, lr_scheduler


def step(optimizer: Optimizer, epochs: int, steps_per_epoch: int, every: int, gamma: float) -> dict:
    """Multiply the learning rate by `gamma` after every `every` epochs."""
    return {"scheduler": lr_scheduler.StepLR(optimizer, every, gamma), "interval": "epoch"}


def linear(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, final_lr: float
) -> dict:
    """Rise for the share `warmup` of all steps to the optimizer's rate, then fall in a line to `final_lr`."""
    return _annealed(optimizer, epochs * steps_per_epoch, warmup, final_lr, lambda share: 1 - share)


def cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, final_lr: float
) -> dict:
    """Rise for the share `warmup` of all steps, then fall in half a cosine (Loshchilov and Hutter, 2017)."""
    return _annealed(
        optimizer,
        epochs * steps_per_epoch,
        warmup,
        final_lr,
        lambda share: (1 + math.cos(math.pi * share)) / 2,
    )


def _annealed(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float,
    final_lr: float,
    height: Callable[[float], float],
) -> dict:
    rise, final = round(warmup * total_steps), final_lr / optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return final + (1 - final) * height((step - rise) / (total_steps - rise))

    schedule = lr_scheduler.LambdaLR(optimizer, factor)
    schedule.total_steps = (
        total_steps  # goes into checkpoints, so that one for another length is refused
    )
    return {"scheduler": schedule, "interval": "step"}


def one_cycle(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, **options
) -> dict:
    """Rise for the share `warmup` of all steps to the optimizer's rate, then anneal (Smith and Topin, 2018)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = lr_scheduler.OneCycleLR(
        optimizer,
        peaks,
        total_steps=epochs * steps_per_epoch,
        pct_start=warmup,
        cycle_momentum=False,
        **options,
    )
    return {"scheduler": schedule, "interval": "step"}


def plateau(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, factor: float, patience: int
) -> dict:
    """Multiply the rate by `factor` when the loss has not fallen for `patience` epochs."""
    return {
        "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience),
        "interval": "epoch",
    }
