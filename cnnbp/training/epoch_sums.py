"""Mean loss and accuracy of an epoch, by sums that stay on the device."""

import torch
from torch import Tensor

# what `means` gives
MEANS = ("accuracy", "loss")


class EpochSums:
    """The sums that an epoch's mean loss and accuracy are computed from."""

    def __init__(self, device: torch.device):
        # the loss times the images, and the images that are right
        self.loss_sum = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add_to_sums(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the sums of the epoch."""
        self.loss_sum += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()

    def sums(self) -> dict[str, Tensor]:
        """The sums of the epoch so far."""
        return {"loss_sum": self.loss_sum, "correct": self.correct}

    def load_sums(self, sums: dict[str, Tensor]) -> None:
        """Go on from the sums of a checkpoint."""
        self.loss_sum.copy_(sums["loss_sum"])
        self.correct.copy_(sums["correct"])

    def reset_sums(self) -> None:
        """Begin an epoch."""
        self.loss_sum.zero_()
        self.correct.zero_()


def means(sums: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The mean loss and the accuracy, each (), over one process or several.

    Args:
        sums: of each process, () or (processes,).
        images: that each process has added, of the same shape.
    """
    total = images.sum()
    return {"accuracy": sums["correct"].sum() / total, "loss": sums["loss_sum"].sum() / total}
