"""What one training step asks of a device."""

from functools import partial

import pytest
import torch

from cnnbp.data.augment import Augment
from cnnbp.data.datamodule import DataModule
from cnnbp.model.network import Network
from cnnbp.training.classifier import Classifier


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.SGD, lr=0.01, momentum=0.9), torch.optim.AdamW]
)
def test_a_step_never_waits_for_the_device(optimizer):
    """On the meta device there are no values.

    Whatever would have to read one, and so wait for a GPU, raises.
    """
    with torch.device("meta"):
        model = Classifier(Network(), optimizer, label_smoothing=0.1).train()
        images, labels = (
            torch.zeros(8, 28, 28, dtype=torch.uint8),
            torch.zeros(8, dtype=torch.int64),
        )
    data = DataModule(augment=Augment(degrees=10, shift=2, scale=0.1, shear=5, elastic=1, erase=8))
    step = optimizer(model.parameters())

    images = data.normalise(data.augment(images.unsqueeze(1).float()))
    model.training_step((images, labels), 0).backward()
    step.step()
    assert all(parameter.grad.is_meta for parameter in model.parameters())
