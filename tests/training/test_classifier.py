"""What a batch sets off: whole optimizer steps, and the schedules that move after them."""

from unittest.mock import MagicMock

import pytest
import torch
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.training.classifier import Classifier, parameter_groups


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


def test_each_trained_parameter_is_in_one_group():
    convolution, norm, linear = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)
    convolution.bias.requires_grad_(False)
    weights, others = parameter_groups(nn.Sequential(convolution, norm, linear))
    assert list(map(id, weights["params"])) == list(map(id, [convolution.weight, linear.weight]))
    assert list(map(id, others["params"])) == list(map(id, [norm.weight, norm.bias, linear.bias]))
    assert others["weight_decay"] == 0
    (alone,) = parameter_groups(norm)
    assert alone["weight_decay"] == 0


def with_trainer(**facts):
    model = Classifier(Network(), torch.optim.SGD)
    model._trainer = MagicMock(**facts)
    return model


@pytest.mark.parametrize(
    ("limit", "accumulate", "steps"),
    [(1.0, 1, 10), (1.0, 3, 4), (4, 1, 4), (4, 4, 1), (40, 1, 10), (0.25, 1, 2), (0.25, 3, 1)],
)
def test_the_optimizer_steps_of_an_epoch_of_ten_batches(limit, accumulate, steps):
    model = with_trainer(limit_train_batches=limit)
    model.trainer.datamodule.train_dataloader.return_value = range(10)
    model.accumulate = accumulate
    assert model._steps_per_epoch() == steps


def test_lightnings_calls_clip_the_gradients_of_the_step():
    model = with_trainer()
    model.step = MagicMock()
    model.on_before_optimizer_step(MagicMock())
    model.step.clip_gradients.assert_called_once_with()


def test_each_process_goes_on_from_its_own_sums():
    model = with_trainer(world_size=2, global_rank=1)
    sums = {"loss_sum": [1.0, 2.0], "correct": [3, 4], "images": [5, 6]}
    model._load_sums({name: torch.tensor(values) for name, values in sums.items()})
    assert model.saved_sums == {"loss_sum": 2.0, "correct": 4}
    assert model.images_seen == 6
    with pytest.raises(UserError, match="not of 2 processes"):
        model._load_sums({"images": torch.tensor(5)})


def test_a_checkpoint_between_epochs_has_no_sums():
    model = with_trainer(world_size=1, global_rank=0)
    model._load_sums({})
    assert (model.saved_sums, model.images_seen) == ({}, 0)


@pytest.mark.parametrize(("stage", "loss"), [("val", 0.5), ("test", 0.25)])
def test_plateau_follows_the_validation_loss_and_never_that_of_the_test(stage, loss, monkeypatch):
    model = with_trainer(callback_metrics={"loss/val": 0.5, "loss/train": 0.25, "loss/test": 0.1})
    model.trainer.datamodule.epoch_stage = stage
    schedule = MagicMock(spec=ReduceLROnPlateau)
    monkeypatch.setattr(model, "lr_schedulers", lambda: schedule)
    monkeypatch.setattr(model, "_log_training", lambda: None)
    model.on_train_epoch_end()
    schedule.step.assert_called_once_with(loss)
