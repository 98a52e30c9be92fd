"""Learning-rate schedules: each maps (optimizer, epochs, steps_per_epoch) to Lightning's lr_scheduler_config."""

from torch.optim import Optimizer, lr_scheduler


def step(optimizer: Optimizer, epochs: int, steps_per_epoch: int, every: int, gamma: float) -> dict:
    """Multiply the learning rate by `gamma` after every `every` epochs."""
    return {"scheduler": lr_scheduler.StepLR(optimizer, every, gamma), "interval": "epoch"}


def cosine(optimizer: Optimizer, epochs: int, steps_per_epoch: int, final_lr: float) -> dict:
    """Follow half a cosine from the optimizer's rate to `final_lr`, step by step (Loshchilov and Hutter, 2017)."""
    return {
        "scheduler": lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch, final_lr),
        "interval": "step",
    }


def one_cycle(optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, **options) -> dict:
    """Rise for the share `warmup` of all steps to the optimizer's rate, then anneal (Smith and Topin, 2018)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=epochs * steps_per_epoch, pct_start=warmup, cycle_momentum=False, **options
    )
    return {"scheduler": schedule, "interval": "step"}


def plateau(optimizer: Optimizer, epochs: int, steps_per_epoch: int, factor: float, patience: int) -> dict:
    """Multiply the rate by `factor` when the loss has not fallen for `patience` epochs."""
    return {
        "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience),
        "interval": "epoch",
    }
