"""Muon for a convolutional network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# of the quintic iteration, and its number of steps (Jordan et al., 2024)
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7
# of the iteration
PRECISION = torch.bfloat16


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
        self.together: MatrixStacks | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if self.together is not None:
            self.together.step(self)
            return
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[matrix], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        direction = orthogonalise(matrix.grad.lerp(state["momentum_buffer"], momentum))
        _move_along(matrix, direction, group)


class MatrixStacks:
    """The matrices of several networks, moved as stacks once all of their optimizers have stepped.

    Each optimizer keeps its own momentum, as a view of a stack.

    Args:
        parts: of as many networks, each with the same shapes.
    """

    def __init__(self, parts: Sequence[_MatrixMuon]):
        self.parts = parts
        self.waiting = 0
        self.matrices = [group["params"] for part in parts for group in part.param_groups]
        self.momenta: list[Tensor] = []
        for own in zip(*self.matrices, strict=True):
            kept = []
            for part, matrix in zip(parts, own, strict=True):
                kept.append(part.state[matrix].get("momentum_buffer", torch.zeros_like(matrix)))
            momenta = torch.stack(kept)
            for part, matrix, momentum in zip(parts, own, momenta, strict=True):
                part.state[matrix]["momentum_buffer"] = momentum
            self.momenta.append(momenta)

    def step(self, part: _MatrixMuon) -> None:
        """Note that a network's optimizer steps; with the last of them all matrices move."""
        self.waiting += 1
        if self.waiting < len(self.parts):
            return
        self.waiting = 0
        groups = [part.param_groups[0] for part in self.parts]
        for momenta, own in zip(self.momenta, zip(*self.matrices, strict=True), strict=True):
            gradients = [matrix.grad for matrix in own if matrix.grad is not None]
            if gradients:
                self._move(momenta, own, torch.stack(gradients), groups)

    def _move(
        self,
        momenta: Tensor,
        matrices: Sequence[nn.Parameter],
        gradients: Tensor,
        groups: list[dict[str, Any]],
    ) -> None:
        kept = _column([group["momentum"] for group in groups], momenta)
        momenta.lerp_(gradients, 1 - kept)
        directions = orthogonalise(gradients.lerp(momenta, kept))
        for matrix, direction, group in zip(matrices, directions, groups, strict=True):
            _move_along(matrix, direction, group)


def _move_along(matrix: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
    """Decay a matrix, and move it against a direction, as far as AdamW's steps are in the mean."""
    rate, scale = group["lr"], 0.2 * math.sqrt(max(matrix.shape))
    matrix.mul_(1 - rate * group["weight_decay"])
    if torch.is_tensor(rate):
        matrix.addcmul_(direction.to(matrix.dtype), rate, value=-scale)
    else:
        matrix.add_(direction, alpha=-(rate * scale))


def _column(numbers: list[float], like: Tensor) -> Tensor:
    """Numbers as (M, 1, 1), made without a copy from the host, which a graph could not hold."""
    return torch.stack([like.new_full((1, 1), number) for number in numbers])


def move_together(optimizers: Sequence[Muon]) -> None:
    """Let the optimizers of several networks move their matrices as stacks.

    The kernels may have been given other memory since the optimizers were made.
    """
    parts: list[_MatrixMuon] = []
    for optimizer in optimizers:
        for group, part in zip(optimizer.param_groups, optimizer.parts, strict=True):
            if not isinstance(part, _MatrixMuon):
                continue
            views = part.param_groups[0]["params"]
            for kernel, view in zip(group["params"], views, strict=True):
                view.data = _matrix(kernel.detach(), kernel)
            parts.append(part)
    together = MatrixStacks(parts)
    for part in parts:
        part.together = together


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (M, N), or of several (..., M, N), near 1, in bfloat16.

    Source: Jordan et al., 2024, the Newton-Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.to(PRECISION)
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    combine = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = combine(gram, gram, gram, beta=b, alpha=c)
        x = combine(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def _matrix(values: Tensor, kernel: Tensor) -> Tensor:
    """Flatten all but the first dimension, in the order in which `kernel` lies in memory.

    Of the kernel itself this is a view.
    """
    channels_last = not kernel.is_contiguous()
    return (values.movedim(1, -1) if channels_last else values).flatten(1)
