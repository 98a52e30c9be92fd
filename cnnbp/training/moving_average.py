"""A moving average of tensors that a captured step can move."""

from collections.abc import Iterable

import torch
from torch import Tensor


class MovingAverage:
    """Moves averages towards values, in place and by a share that lies on their device.

    A share that is a Python number would be part of a captured graph, and never change.

    Args:
        averages, values: one for one; averages of whole numbers become copies of their values.
    """

    def __init__(self, averages: Iterable[Tensor], values: Iterable[Tensor]):
        self.share: float | None = None
        pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for average, value in zip(averages, values, strict=True):
            of_type = pairs.setdefault(average.dtype, ([], []))
            of_type[0].append(average.detach())
            # itself, because its memory may be exchanged
            of_type[1].append(value)
        self.moved, self.copied, self.shares = [], [], []
        for dtype, (own, given) in pairs.items():
            if dtype.is_floating_point:
                memory, views = _one_memory(own)
                self.shares.append(memory)
                self.moved.append((own, given, views))
            else:
                self.copied.append((own, given))

    def set_share(self, share: float) -> None:
        """Choose how far the averages move, in [0, 1]; not while a step is captured."""
        if share != self.share:
            self.share = share
            for memory in self.shares:
                memory.fill_(share)

    @torch.no_grad()
    def move(self) -> None:
        """Move each average by the share of the way to its value."""
        for averages, values, shares in self.moved:
            torch._foreach_lerp_(averages, values, shares)
        for averages, values in self.copied:
            torch._foreach_copy_(averages, values)


def _one_memory(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One memory that a single operator fills, and views of it in the shapes of the tensors.

    With views of the same shapes and strides, PyTorch moves all averages in one kernel. They may
    overlap, because all that they hold is the same number.
    """
    memory = tensors[0].new_empty(max(tensor.numel() for tensor in tensors))
    views = []
    for tensor in tensors:
        strides = torch.empty_like(tensor).stride()
        views.append(memory.as_strided(tensor.shape, strides))
    return memory, views
