"""A step of the optimizer under loss scaling that looks at no value."""

from collections.abc import Iterator

import torch
from torch import Tensor


@torch.no_grad()
def step_if_finite(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Move the weights, unless a gradient overflowed in 16 bits; then renew the scale.

    `GradScaler.step` asks the device whether to step, for which it has to wait. Here the step is
    always taken, and taken back on the device where a gradient is not finite.

    Args:
        optimizer: whose gradients `scaler.unscale_` has unscaled.
    """
    (overflow,) = scaler._found_inf_per_device(optimizer).values()
    before = {id(value): value.clone() for value in _moved(optimizer, overflow.device)}
    optimizer.step()
    for value in _moved(optimizer, overflow.device):
        old = before.get(id(value))
        if old is None:
            # what the first step makes begins as zero
            old = torch.zeros_like(value)
        value.copy_(torch.where(overflow > 0, old, value))
    scaler.update()


def _moved(optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[Tensor]:
    """What a step changes on the device: weights, and the optimizer's state."""
    for group in optimizer.param_groups:
        yield from group["params"]
    for part in (optimizer, *getattr(optimizer, "parts", ())):
        for state in part.state.values():
            for value in state.values():
                # some optimizers count their steps on the host
                if torch.is_tensor(value) and value.device == device:
                    yield value
