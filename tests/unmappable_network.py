"""A network that torch cannot map over several."""

from torch import nn


class Looks(nn.Module):
    """Reads a value, which nothing that maps it can give."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits if logits.sum().item() > 0 else -logits
