"""Muon for a convolutional network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Moves each kernel, as a matrix (out, in x height x width), by torch's Muon and all else by torch's AdamW.

    Muon's steps are scaled as large as AdamW's, so that one learning rate serves both (Jordan et al., 2024; Liu et
    al., 2025, section 2.2).

    Args:
        params: groups whose parameters are all matrices and kernels, or all vectors.
        momentum: Muon's; AdamW has its defaults.
    """

    def __init__(
        self, params: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.parts = [self._part(group) for group in self.param_groups]

    def _part(self, group: dict[str, Any]) -> torch.optim.Optimizer:
        options = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        if group["params"][0].ndim == 1:
            return torch.optim.AdamW(group["params"], **options)
        views = [nn.Parameter(_matrix(kernel.detach(), kernel)) for kernel in group["params"]]
        return torch.optim.Muon(
            views, momentum=group["momentum"], adjust_lr_fn="match_rms_adamw", **options
        )

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = closure() if closure else None
        for group, part in zip(self.param_groups, self.parts, strict=True):
            own = part.param_groups[0]
            own["lr"] = group["lr"]
            for parameter, view in zip(group["params"], own["params"], strict=True):
                if parameter is not view:
                    view.grad = (
                        None if parameter.grad is None else _matrix(parameter.grad, parameter)
                    )
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "parts"})
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def _matrix(values: Tensor, kernel: Tensor) -> Tensor:
    """Flatten all but the first dimension, in the order in which `kernel` lies in memory: of itself this is a view."""
    channels_last = not kernel.is_contiguous()
    return (values.movedim(1, -1) if channels_last else values).flatten(1)
