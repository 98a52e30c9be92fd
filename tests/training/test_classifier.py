"""What a batch sets off: whole optimizer steps, and the schedules that move after them."""

from unittest.mock import MagicMock

import pytest
import torch
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.training.classifier import Classifier


def counting(interval):
    """A schedule that multiplies a rate of 1 by 2 each time that it moves, and its optimizer."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = LambdaLR(optimizer, lambda n: 2.0**n)
    # before its schedule, or torch warns
    optimizer.step()
    return optimizer, LRSchedulerConfig(schedule, interval=interval)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 5), (2, 3), (3, 2), (9, 1)])
def test_an_epoch_of_five_batches(accumulate, steps):
    by_step, step_config = counting("step")
    by_epoch, epoch_config = counting("epoch")
    plateau = LRSchedulerConfig(MagicMock(spec=ReduceLROnPlateau), interval="epoch")
    trainer = MagicMock(num_training_batches=5)
    trainer.lr_scheduler_configs = [step_config, epoch_config, plateau]
    model = Classifier(Network(), torch.optim.SGD)
    model._trainer, model.accumulate, model.average = trainer, accumulate, MagicMock()
    taken, rates = [], []
    model.take_step = lambda images, labels, first, last: taken.append((first, last))
    for batch in range(5):
        model.training_step((torch.zeros(7, 28, 28), torch.zeros(7)), batch)
        rates.append(by_epoch.param_groups[0]["lr"])
    assert taken == [
        (batch % accumulate == 0, batch == 4 or batch % accumulate == accumulate - 1)
        for batch in range(5)
    ]
    assert by_step.param_groups[0]["lr"] == 2**steps
    assert rates == [1, 1, 1, 1, 2]
    plateau.scheduler.step.assert_not_called()
    assert model.average.prepare.call_count == steps
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    assert progress.increment_completed.call_count == steps
    assert model.images_seen == 35


@pytest.mark.parametrize("graph", ["auto", False])
def test_without_a_gpu_the_step_is_taken_as_it_is(graph):
    model = Classifier(Network(), torch.optim.SGD)
    model.step, model.graph = MagicMock(), graph
    assert model._on_device("") is model.step
    model.graph = True
    with pytest.raises(UserError, match=r"cannot be captured \(there is no CUDA device\)"):
        model._on_device("")
