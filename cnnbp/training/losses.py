"""Losses that a network can be trained by, beside cross-entropy."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.errors import UserError, on_one_line

# a power of 0 has no slope where gamma is below 1
SMALLEST = torch.finfo(torch.float32).tiny

# maps logits (N, K) and labels (N,) to the loss ()
Loss = Callable[[Tensor, Tensor], Tensor]


class Focal(nn.Module):
    """Cross-entropy in which an image of probability p counts by (1 - p) ** gamma.

    Source: Lin et al., 2017, equation 4, without the weights of the classes.
    """

    def __init__(self, gamma: float):
        super().__init__()
        if gamma < 0:
            raise UserError(f"gamma={gamma}: must be at least 0")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss () of logits (N, K)."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        # 1 - p without the rounding of 1 - exp(-loss) near p = 1
        missing = -torch.expm1(-losses).clamp(max=-SMALLEST)
        return (missing**self.gamma * losses).mean()


def check_loss(loss: Loss, classes: int) -> None:
    """Try a loss on a few logits.

    Raises:
        UserError: it fails, or gives something else than one number that depends on the logits.
    """
    # as many images as classes would hide that labels are taken for another tensor of logits
    images = classes + 1
    logits = torch.zeros(images, classes, requires_grad=True)
    labels = torch.arange(images) % classes
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        with warnings.catch_warnings():
            # torch warns of shapes before it fails on them
            warnings.simplefilter("ignore")
            value = loss(logits, labels)
    except Exception as error:  # it is somebody else's code
        raise UserError(
            f"loss: {name} fails on logits {tuple(logits.shape)} and labels ({images},): "
            f"{on_one_line(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"loss: {name} gives {shape}; must be one number, the mean over the images, "
            "that depends on the logits"
        )
