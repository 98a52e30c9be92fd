"""The mean loss over images, from the mean losses of batches."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Weighs each batch by its images, keeps a NaN, and looks at no value.

    torchmetrics' own MeanMetric ignores the weights where it is told to keep a NaN
    (`nan_strategy="disable"`, version 1.9.0).
    """

    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, images: int) -> None:
        """Add a batch of so many images and its mean loss ()."""
        self.total = self.total + loss * images
        self.images = self.images + images

    def compute(self) -> Tensor:
        """The mean loss () over all images."""
        return self.total / self.images
