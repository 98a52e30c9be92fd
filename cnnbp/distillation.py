"""Learning from what a network that was trained before makes of each image, in place of the labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Teacher:
    """A trained network, and the loss of another that learns from it (Hinton, Vinyals and Dean, 2015, section 2).

    Both see the same augmented image (Beyer et al., 2022, "Knowledge distillation: A good teacher is patient and
    consistent"), but the teacher moved by a few pixels, which are drawn for each batch: what is learnt in the end is
    the mean of its answers over these shifts, which is better than any of them.

    Args:
        network: maps images (N, 1, 28, 28) to logits (N, 10); in evaluation mode.
        temperature: what the logits of both are divided by; above 1 it shows more of the unlikely classes.
        shift: the most pixels in each direction; what leaves the image on one side comes in on the other.
    """

    def __init__(self, network: nn.Module, temperature: float, shift: int):
        self.network, self.temperature, self.shift = network, temperature, shift

    def loss(self, images: Tensor, logits: Tensor) -> Tensor:
        """Cross-entropy between the teacher's softened probabilities and those of logits (N, 10), the batch's mean."""
        self.network.to(images.device)
        down, right = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
        with torch.no_grad():
            answers = self.network(images.roll((down, right), dims=(2, 3))).float()
        targets = (answers / self.temperature).softmax(1)
        return F.cross_entropy(logits / self.temperature, targets)
