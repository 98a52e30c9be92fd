"""The mean loss over batches of several sizes, by hand."""

import pytest
import torch

from cnnbp.training.mean_loss import MeanLoss


def test_a_batch_counts_by_its_images():
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(5.0), 1)
    assert mean.compute().item() == pytest.approx(2.0)
    mean.reset()
    mean.update(torch.tensor(4.0), 2)
    assert mean.compute().item() == pytest.approx(4.0)


def test_a_nan_is_kept():
    mean = MeanLoss()
    mean.update(torch.tensor(float("nan")), 1)
    mean.update(torch.tensor(1.0), 100)
    assert mean.compute().isnan()
