"""Muon for a convolutional network."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# of the quintic iteration, and its number of steps (Jordan et al., 2024)
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Moves each kernel, as a matrix (out, in x height x width), by Muon, and all else by AdamW.

    Muon's steps are scaled as large as AdamW's, so that one learning rate serves both.
    Source: Jordan et al., 2024; Liu et al., 2025, section 2.2.

    Args:
        params: groups whose parameters are all matrices and kernels, or all vectors.
        lr: learning rate; a group's may also be a tensor, as it is in a captured step.
        momentum: Muon's; AdamW has its defaults.
    """

    def __init__(
        self, params: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.parts = [self._part(group) for group in self.param_groups]

    def _part(self, group: dict[str, Any]) -> torch.optim.Optimizer:
        options = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        first = group["params"][0]
        if first.ndim <= 1:
            fused = True if first.is_cuda else None
            return torch.optim.AdamW(group["params"], fused=fused, **options)
        views = []
        for kernel in group["params"]:
            views.append(nn.Parameter(_matrix(kernel.detach(), kernel)))
        return _MatrixMuon(views, momentum=group["momentum"], **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure else None
        for group, part in zip(self.param_groups, self.parts, strict=True):
            own = part.param_groups[0]
            own["lr"] = group["lr"]
            for parameter, view in zip(group["params"], own["params"], strict=True):
                if parameter is not view:
                    gradient = parameter.grad
                    view.grad = None if gradient is None else _matrix(gradient, parameter)
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = {key: value for key, value in state_dict.items() if key != "parts"}
        super().load_state_dict(own)
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


class _MatrixMuon(torch.optim.Optimizer):
    """Muon on matrices, as torch.optim.Muon, which reads the rate on the host."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: Tensor, group: dict[str, Any]) -> None:
        state, momentum, rate = self.state[matrix], group["momentum"], group["lr"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        direction = orthogonalise(matrix.grad.lerp(state["momentum_buffer"], momentum))
        # as large as AdamW's steps are in the mean
        scale = 0.2 * math.sqrt(max(matrix.shape))
        matrix.mul_(1 - rate * group["weight_decay"])
        if torch.is_tensor(rate):
            matrix.addcmul_(direction.float(), rate, value=-scale)
        else:
            matrix.add_(direction, alpha=-(rate * scale))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (M, N) near 1, in bfloat16.

    Source: Jordan et al., 2024, the Newton-Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    if is_tall:
        x = x.T
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if is_tall else x


def _matrix(values: Tensor, kernel: Tensor) -> Tensor:
    """Flatten all but the first dimension, in the order in which `kernel` lies in memory.

    Of the kernel itself this is a view.
    """
    channels_last = not kernel.is_contiguous()
    return (values.movedim(1, -1) if channels_last else values).flatten(1)
