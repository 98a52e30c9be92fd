"""Whether a checkpoint fits a network, and whether training can go on from it."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cnnbp.errors import UserError

# how an optimizer computes, not what
IMPLEMENTATION_KEYS = ("params", "fused", "foreach", "capturable", "differentiable")
# of schedules whose state holds them; others are compared by their length
SCHEDULE_KEYS = ("step_size", "gamma", "factor", "patience")


def check_fits(checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Raise a UserError when a checkpoint's weights belong to another architecture."""
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for name in {**wanted, **saved}:
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"the checkpoint is of another architecture ({name} has shape "
                f"{saved.get(name, 'none')}, here {wanted.get(name, 'none')}); "
                "give the model and dropout options that it was trained with"
            )


def check_version(checkpoint: Mapping[str, Any]) -> None:
    """Raise a UserError when Lightning counted the steps, as it did in earlier versions."""
    fit_loop = checkpoint["loops"]["fit_loop"]
    counter = fit_loop["epoch_loop.automatic_optimization.optim_progress"]
    if counter["optimizer"]["step"]["total"]["completed"]:
        raise UserError("the checkpoint was written by an earlier version of cnnbp; start afresh")


def check_optimizer(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise a UserError when training would go on with another optimizer.

    The state of the optimizer is restored, so that other options would silently do nothing.
    """
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise UserError(
            "the checkpoint was trained with another optimizer, or by another version; start afresh"
        )
    for saved, group in zip(groups, optimizer.param_groups, strict=True):
        for key, value in group.items():
            if key in IMPLEMENTATION_KEYS:
                continue
            was = _rate_before_schedule(checkpoint, saved) if key == "lr" else saved.get(key)
            if was != value and not (key == "lr" and was is None):
                raise UserError(
                    f"the checkpoint was trained with {key}={was}, not {value}; "
                    "resume with the optimizer it was trained with"
                )


def _rate_before_schedule(checkpoint: Mapping[str, Any], group: Mapping[str, Any]) -> float | None:
    """The learning rate that was asked for; None where a schedule has hidden it."""
    for key in ("max_lr", "initial_lr"):
        if key in group:
            return group[key]
    return None if checkpoint["lr_schedulers"] else group["lr"]


def check_schedule(checkpoint: Mapping[str, Any], own: list[Mapping[str, Any]], steps: int) -> None:
    """Raise a UserError when another learning-rate schedule would be restored.

    Args:
        own: the states of the schedules that training would have.
        steps: of the whole training.
    """
    saved = checkpoint["lr_schedulers"]
    for schedule in saved:
        length = schedule.get("total_steps", schedule.get("T_max"))
        # a schedule that is laid out over steps would end too early, or never
        if length not in (None, steps):
            raise UserError(
                f"the checkpoint's schedule is for {length} steps in all, not {steps}; "
                "give as many epochs"
            )
    if [state.keys() for state in saved] != [state.keys() for state in own]:
        raise UserError(
            "the checkpoint was trained with another schedule; "
            "resume with the scheduler it was trained with"
        )
    for was, state in zip(saved, own, strict=True):
        for key in SCHEDULE_KEYS:
            if key in state and was[key] != state[key]:
                raise UserError(
                    f"the checkpoint was trained with {key}={was[key]}, not {state[key]}; "
                    "resume with the scheduler it was trained with"
                )


def check_averages(checkpoint: Mapping[str, Any], averages: bool) -> None:
    """Raise a UserError when weights were averaged and would not be now, or the other way."""
    if averages != ("averaging_state" in checkpoint):
        way = "without" if averages else "with"
        raise UserError(
            f"the checkpoint was trained {way} averaged weights; "
            "resume with the average= it was trained with"
        )
