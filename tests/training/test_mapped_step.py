"""The steps of a fleet against the same steps, each taken alone."""

import re
from functools import partial

import pytest
import torch
from torch import nn
from unmappable_network import Looks

from cnnbp.data.augment import Augment
from cnnbp.data.batches import Batches
from cnnbp.data.datamodule import DataModule
from cnnbp.model.network import Network
from cnnbp.training import muon
from cnnbp.training.classifier import Classifier, parameter_groups
from cnnbp.training.mapped_step import MappedStep, side_by_side
from cnnbp.training.mapping_check import most_members, why_not_mapped
from cnnbp.training.moving_average import MovingAverage
from cnnbp.training.muon import Muon
from cnnbp.training.step import TrainingStep

# members differ by these
RATES = (1.0, 0.5)
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-3, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.01, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.5),
    "muon": partial(Muon, momentum=0.95, weight_decay=0.01),
}
SIZE = 8


@pytest.fixture(scope="module")
def data():
    own = DataModule()
    own.setup("fit")
    return own


def make(data, index, optimizer="sgd", lr=0.01, dtype=torch.float64, dropout=0.0, **options):
    """The step of one training; members differ by all numbers that they may differ by."""
    torch.manual_seed(index)
    network = Network(dropout=[dropout * RATES[index]] * 4).to(memory_format=torch.channels_last)
    network = network.to(dtype).train()
    groups = parameter_groups(network)
    return TrainingStep(
        network,
        OPTIMIZERS[optimizer](groups, lr=lr * RATES[index]),
        data.as_pixels,
        lambda pixels: data.normalise(pixels).to(dtype),
        augment=Augment(degrees=10 * RATES[index], shift=2, elastic=RATES[index], erase=8),
        label_smoothing=0.1 * index,
        **options,
    )


def train(data, members, alone, steps, size=SIZE, accumulate=1):
    """Take steps together, and the same ones alone; return the losses of the last one."""
    together = MappedStep(members)
    loaders = [iter(Batches(*data.splits["train"], size, seed=index)) for index in range(2)]
    for number in range(steps):
        batches, seeds = [], []
        for loader in loaders:
            batches.append(next(loader))
            seeds.append(torch.initial_seed())
        first, last = number % accumulate == 0, (number + 1) % accumulate == 0
        together.seeds = seeds
        images, labels = (torch.stack(parts) for parts in zip(*batches, strict=True))
        losses = together(images, labels, first, last)
        expected = []
        for step, batch, seed in zip(alone, batches, seeds, strict=True):
            torch.manual_seed(seed)
            expected.append(step(*batch, first, last))
    # no graph of the steps is kept
    assert not together.loss_sum.requires_grad
    return losses, torch.stack(expected)


def largest_difference(members, alone):
    """Of any weight or running statistic, relative to the largest one of its tensor."""
    worst = 0.0
    for one, other in zip(members, alone, strict=True):
        for value, expected in zip(
            one.network.state_dict().values(), other.network.state_dict().values(), strict=True
        ):
            difference = (value - expected).abs().max() / expected.abs().max()
            worst = max(worst, difference.item())
    return worst


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_take_the_steps_that_they_would_take_alone(data, name, monkeypatch):
    # in bfloat16 the last bit of a gradient can change an element by 1/256
    monkeypatch.setattr(muon, "PRECISION", torch.float64)
    members, alone = ([make(data, index, name) for index in range(2)] for _ in range(2))
    losses, expected = train(data, members, alone, steps=3)
    assert largest_difference(members, alone) < 1e-9
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    for member, other in zip(members, alone, strict=True):
        torch.testing.assert_close(member.loss_sum, other.loss_sum, rtol=1e-6, atol=0)
        assert member.correct == other.correct


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_are_those_taken_alone(data, name, monkeypatch):
    monkeypatch.setattr(muon, "PRECISION", torch.float64)
    members, alone = ([make(data, index, name, lr=1e-3) for index in range(2)] for _ in range(2))
    train(data, members, alone, steps=50, size=32)
    assert largest_difference(members, alone) < 1e-7


def test_a_step_in_float32_is_as_exact_as_float32(data):
    # the other optimizers divide by the gradient, and so by its rounding where it is nearly 0
    options = {"optimizer": "sgd", "dtype": torch.float32}
    members, alone = ([make(data, index, **options) for index in range(2)] for _ in range(2))
    train(data, members, alone, steps=1, size=32)
    assert largest_difference(members, alone) < 1e-5


def test_members_drop_what_they_would_drop_alone(data):
    members, alone = ([make(data, index, dropout=0.2) for index in range(2)] for _ in range(2))
    train(data, members, alone, steps=2)
    assert largest_difference(members, alone) < 1e-9


def test_members_accumulate_clip_and_average_as_alone(data):
    both = []
    for _ in range(2):
        steps = []
        for index in range(2):
            step = make(data, index, accumulate=2, clip=0.01 * (index + 1))
            averages = [value.detach().clone() for value in step.network.state_dict().values()]
            step.average = MovingAverage(averages, step.network.state_dict(keep_vars=True).values())
            step.average.set_share(0.5)
            step.averages = averages
            steps.append(step)
        both.append(steps)
    members, alone = both
    train(data, members, alone, steps=4, accumulate=2)
    assert largest_difference(members, alone) < 1e-9
    for one, other in zip(members, alone, strict=True):
        for value, expected in zip(one.averages, other.averages, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-12)


def test_weights_stay_the_same_objects_in_the_same_layout(data):
    members = [make(data, index) for index in range(2)]
    before = [(id(weight), weight.stride(), weight.clone()) for weight in members[0].parameters]
    together = MappedStep(members)
    for weight, (identity, stride, value) in zip(members[0].parameters, before, strict=True):
        assert (id(weight), weight.stride()) == (identity, stride)
        assert torch.equal(weight, value)
    with torch.no_grad():
        together.parameters[0].zero_()
    assert not members[1].network.conv1[0].conv.weight.any()


def test_a_stack_is_the_memory_of_its_parts():
    parts = [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last) for _ in range(3)]
    expected = torch.stack(parts)
    whole = side_by_side(parts)
    assert torch.equal(whole, expected)
    whole.zero_()
    assert not any(part.any() for part in parts)


class Plain(Looks):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.linear(self.drop(images.flatten(1)))


class Twice(Plain):
    def forward(self, images):
        return super().forward(self.drop(images))


class Accelerator:
    """What the check reads of a Trainer."""

    world_size, callbacks, precision_plugin = 1, (), None

    class strategy:
        root_device = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Plain, ""),
        (Looks, r"torch cannot map this network over several \(.*calling .item\(\)"),
        (Twice, r"the dropout layer drop is called more than once"),
    ],
)
def test_a_network_that_cannot_be_mapped_is_found_beforehand(data, network, reason):
    model = Classifier(network(), OPTIMIZERS["sgd"])
    found = why_not_mapped(data, model, Accelerator)
    assert re.search(reason, found)
    assert bool(found) == bool(reason)


def test_by_hand_is_not_mapped_and_the_memory_holds_some(data):
    model = Classifier(Network(), OPTIMIZERS["sgd"], backprop="by_hand")
    assert "model.backprop=by_hand" in why_not_mapped(data, model, Accelerator)
    assert most_members(data, Classifier(Network(), OPTIMIZERS["sgd"]), Accelerator) >= 1
