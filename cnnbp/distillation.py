"""Learning from what trained networks make of each image, in place of its label."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Teacher:
    """An ensemble of trained networks, and the loss of another that learns from it (Hinton, Vinyals and Dean, 2015).

    Both sides see the same augmented image (Beyer et al., 2022, "Knowledge distillation: A good teacher is patient
    and consistent").

    Args:
        networks: each maps images (N, 1, 28, 28) to logits (N, 10); in evaluation mode.
        temperature: what the logits of both sides are divided by; above 1 it shows more of the unlikely classes.
    """

    def __init__(self, networks: Sequence[nn.Module], temperature: float):
        self.networks, self.temperature = nn.ModuleList(networks), temperature

    def loss(self, images: Tensor, logits: Tensor) -> Tensor:
        """Cross-entropy between the ensemble's softened probabilities and those of logits (N, 10), the batch's mean."""
        self.networks.to(images.device)
        with torch.no_grad():
            answers = torch.stack([network(images).float() for network in self.networks]).mean(0)
        return F.cross_entropy(logits / self.temperature, (answers / self.temperature).softmax(1))

    def fingerprint(self) -> str:
        """A hash of all weights, the same for the same ensemble."""
        digest = hashlib.sha256()
        for value in self.networks.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
