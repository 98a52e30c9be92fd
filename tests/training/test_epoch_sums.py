"""The means of an epoch over batches of several sizes, by hand and by torchmetrics."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from cnnbp.training.epoch_sums import EpochSums, means

LABELS = torch.tensor([1, 0, 0, 0])
RIGHT = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_a_batch_counts_by_its_images():
    sums = EpochSums(torch.device("cpu"))
    sums.add_to_sums(torch.tensor(1.0), RIGHT[:3], LABELS[:3])
    sums.add_to_sums(torch.tensor(5.0), RIGHT[3:], LABELS[3:])
    values = means(sums.sums(), torch.tensor(4))
    assert values["loss"].item() == pytest.approx(2.0)
    assert values["accuracy"] == multiclass_accuracy(RIGHT, LABELS, 2, average="micro") == 0.75
    sums.reset_sums()
    sums.add_to_sums(torch.tensor(4.0), RIGHT[:2], LABELS[:2])
    values = means(sums.sums(), torch.tensor(2))
    assert (values["loss"].item(), values["accuracy"].item()) == (4.0, 1.0)


def test_a_nan_is_kept():
    sums = EpochSums(torch.device("cpu"))
    sums.add_to_sums(torch.tensor(float("nan")), RIGHT, LABELS)
    sums.add_to_sums(torch.tensor(1.0), RIGHT, LABELS)
    assert means(sums.sums(), torch.tensor(8))["loss"].isnan()


def test_the_sums_keep_no_graph_of_the_batches():
    sums = EpochSums(torch.device("cpu"))
    sums.add_to_sums(torch.tensor(1.0, requires_grad=True), RIGHT, LABELS)
    assert not sums.loss_sum.requires_grad


def test_loaded_sums_take_the_place_of_those_that_are_there():
    sums = EpochSums(torch.device("cpu"))
    sums.add_to_sums(torch.tensor(1.0), RIGHT, LABELS)
    sums.load_sums({"loss_sum": torch.tensor(6.0), "correct": torch.tensor(5)})
    assert (sums.loss_sum.item(), sums.correct.item()) == (6.0, 5)


def test_processes_are_taken_together():
    gathered = {"loss_sum": torch.tensor([2.0, 4.0]), "correct": torch.tensor([1, 2])}
    values = means(gathered, torch.tensor([4, 2]))
    assert (values["loss"].item(), values["accuracy"].item()) == (1.0, 0.5)


def test_the_count_is_exact_however_many_images_there_are():
    """A count in float32 would stand still at 2 ** 24."""
    sums = EpochSums(torch.device("cpu"))
    sums.correct.fill_(2**24)
    sums.add_to_sums(torch.tensor(0.5), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert sums.correct.item() == 2**24 + 1


def test_the_sums_are_on_the_device_that_is_named():
    sums = EpochSums(torch.device("meta"))
    assert all(value.is_meta for value in sums.sums().values())
