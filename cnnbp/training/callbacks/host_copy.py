"""Values of a device, read without waiting for it."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on its way to the host's memory; on the CPU it is there at once.

    What reads a tensor of a GPU at once waits for all the steps that are queued there, and the GPU
    then for the next ones.
    """

    def __init__(self, values: Tensor):
        self.event: torch.cuda.Event | None = None
        self.values = values.detach()
        if values.is_cuda:
            self.values = torch.empty_like(self.values, device="cpu", pin_memory=True)
            self.values.copy_(values.detach(), non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    @property
    def is_late(self) -> bool:
        """Whether it takes time to come."""
        return self.event is not None

    def is_here(self) -> bool:
        """Whether `read` would not wait."""
        return self.event is None or self.event.query()

    def read(self) -> list[float]:
        """The values, in one list; waits for them where they are not here."""
        if self.event is not None:
            self.event.synchronize()
        return self.values.flatten().tolist()
