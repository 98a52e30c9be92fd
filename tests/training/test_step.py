"""The training step against a plain loop, and what it asks of a device."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.nn import functional as F

from cnnbp.data.augment import Augment
from cnnbp.data.datamodule import DataModule
from cnnbp.model.network import Network
from cnnbp.training import step as step_module
from cnnbp.training.classifier import parameter_groups
from cnnbp.training.moving_average import MovingAverage
from cnnbp.training.muon import Muon
from cnnbp.training.step import LightningStep, TrainingStep, overridden_hooks

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5),
    "muon": partial(Muon, lr=1e-2, momentum=0.95, weight_decay=0.01),
}
SMOOTHING = 0.1
AUGMENT = Augment(degrees=10, shift=2, scale=0.1)


def batches(count, seed=5, size=8):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (size,), generator=generator)
        yield images, labels


def network():
    torch.manual_seed(2)
    return Network().train()


def make(net, optimizer, **options):
    data = DataModule()
    parts = (net, optimizer, data.as_pixels, data.normalise)
    return TrainingStep(*parts, label_smoothing=SMOOTHING, **options)


def assert_same_weights(one, other):
    for (name, value), expected in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_a_plain_loop(name):
    ours, theirs = network(), network()
    optimizer = OPTIMIZERS[name](parameter_groups(theirs))
    step = make(ours, OPTIMIZERS[name](parameter_groups(ours)), augment=AUGMENT)
    data = DataModule()
    losses, correct = [], 0
    for number, (images, labels) in enumerate(batches(4)):
        torch.manual_seed(number)
        loss = step(images, labels)
        torch.manual_seed(number)
        logits = theirs(data.normalise(AUGMENT(data.as_pixels(images))))
        expected = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert torch.equal(loss, expected)
        assert not loss.requires_grad
        losses.append(expected.item())
        correct += int((logits.argmax(1) == labels).sum())
    assert_same_weights(ours, theirs)
    assert step.loss_sum.item() / 8 == pytest.approx(sum(losses))
    assert step.correct.item() == correct


def test_label_smoothing_is_in_the_loss():
    images, labels = next(batches(1))
    net = network().eval()
    smoothed = make(copy.deepcopy(net), torch.optim.SGD(net.parameters(), lr=0.1))
    logits = net(DataModule().prepare(images)).double()
    target = F.one_hot(labels, 10) * (1 - SMOOTHING) + SMOOTHING / 10
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert smoothed.forward(images, labels)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("clip_by", ["norm", "value"])
def test_accumulated_and_clipped_gradients_are_those_of_the_whole_batch(clip_by):
    """Without BatchNorm and dropout, three batches of 8 have the mean gradient of one of 24."""
    options = {"norm": "none", "dropout": (0, 0, 0, 0)}
    torch.manual_seed(3)
    ours = Network(**options)
    theirs = copy.deepcopy(ours)
    step = make(
        ours, torch.optim.SGD(ours.parameters(), lr=0.1), accumulate=3, clip=0.01, clip_by=clip_by
    )
    parts = list(batches(3))
    for number, (images, labels) in enumerate(parts):
        before = copy.deepcopy(ours.state_dict())
        step(images, labels, first=number == 0, last=number == 2)
        moved = any(not torch.equal(before[name], v) for name, v in ours.state_dict().items())
        assert moved == (number == 2)
    images = torch.cat([images for images, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    logits = theirs(DataModule().prepare(images))
    F.cross_entropy(logits, labels, label_smoothing=SMOOTHING).backward()
    clip = nn.utils.clip_grad_norm_ if clip_by == "norm" else nn.utils.clip_grad_value_
    clip(theirs.parameters(), 0.01)
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    for value, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


class Halves(nn.Module):
    """Two layers, of which each batch uses those that are named."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.a, self.b = nn.Linear(784, 10), nn.Linear(784, 10)

    def forward(self, images):
        return sum(getattr(self, name)(images.flatten(1)) for name in self.used)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("used", ["ab a a b", "a ab a a", "b a b b"])
def test_a_layer_that_a_batch_leaves_out_is_left_as_autograd_leaves_it(used, accumulate):
    """Weight decay moves a gradient of 0, and leaves one of None alone."""
    ours, theirs = Halves(), Halves()
    own, optimizer = [
        torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1) for net in (ours, theirs)
    ]
    step = make(ours, own, accumulate=accumulate)
    for number, (images, labels) in enumerate(batches(4)):
        ours.used = theirs.used = used.split()[number]
        first, last = number % accumulate == 0, (number + 1) % accumulate == 0
        step(images, labels, first, last)
        if first:
            optimizer.zero_grad()
        logits = theirs(DataModule().prepare(images))
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        (loss / accumulate).backward()
        if last:
            optimizer.step()
            assert_same_weights(ours, theirs)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loss_scaling_is_that_of_torch(name, accumulate):
    """From a scale at which float16 overflows now and then: against `GradScaler.step`."""
    ours, theirs = network(), network()
    optimizers = [OPTIMIZERS[name](parameter_groups(net)) for net in (ours, theirs)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1) for _ in range(2)]
    # in the order of the step: a norm is rounded by it
    parameters = [value for group in optimizers[1].param_groups for value in group["params"]]
    step = make(ours, optimizers[0], scaler=scalers[0], clip=1.0, accumulate=accumulate)
    scales = []
    for number, (images, labels) in enumerate(batches(6 * accumulate)):
        first, last = number % accumulate == 0, (number + 1) % accumulate == 0
        if first:
            optimizers[1].zero_grad()
        with torch.autocast("cpu", torch.float16):
            torch.manual_seed(number)
            loss = step(images, labels, first, last)
            torch.manual_seed(number)
            logits = theirs(DataModule().prepare(images))
        expected = F.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING)
        scalers[1].scale(expected / accumulate).backward()
        assert torch.equal(loss, expected)
        if last:
            scalers[1].unscale_(optimizers[1])
            nn.utils.clip_grad_norm_(parameters, 1.0)
            scalers[1].step(optimizers[1])
            scalers[1].update()
            assert_same_weights(ours, theirs)
            scales.append(scalers[0].get_scale())
            assert scales[-1] == scalers[1].get_scale()
    # some steps were taken back, and some were not
    assert scales[0] < 2.0**20
    assert any(later > earlier for earlier, later in pairwise(scales))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_part_that_is_not_used_stays_as_it_is(accumulate):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    net.register_parameter("spare", nn.Parameter(torch.ones(3)))
    step = make(net, torch.optim.SGD(net.parameters(), lr=0.1), accumulate=accumulate)
    before = copy.deepcopy(net.state_dict())
    for number, batch in enumerate(batches(accumulate)):
        step(*batch, first=number == 0, last=number == accumulate - 1)
    changed = [name for name, value in net.state_dict().items() if (value != before[name]).any()]
    assert changed == ["1.weight", "1.bias"]


def test_by_hand_moves_the_weights_as_autograd_does(monkeypatch):
    calls = []

    def counted(*arguments, own=step_module.loss_and_logits):
        calls.append(arguments)
        return own(*arguments)

    monkeypatch.setattr(step_module, "loss_and_logits", counted)
    ours, theirs = network(), network()
    for net, by_hand in ((ours, True), (theirs, False)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = make(net, optimizer, by_hand=by_hand)
        for number, batch in enumerate(batches(2)):
            torch.manual_seed(number)
            step(*batch)
    assert len(calls) == 2
    for value, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


def test_the_sums_go_on_from_a_checkpoint():
    net = network()
    step = make(net, torch.optim.SGD(net.parameters(), lr=0.1))
    for batch in batches(2):
        step(*batch)
    saved = {name: value.clone() for name, value in step.sums().items()}
    step.reset_sums()
    assert step.loss_sum.item() == step.correct.item() == 0
    step.load_sums(saved)
    assert {name: value.item() for name, value in step.sums().items()} == {
        name: value.item() for name, value in saved.items()
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_looks_at_no_value(name, clip):
    """On the meta device there are no values.

    Whatever would have to read one, and so wait for a GPU, raises.
    """
    with torch.device("meta"):
        net = Network().train()
        images = torch.zeros(8, 28, 28, dtype=torch.uint8)
        labels = torch.zeros(8, dtype=torch.int64)
        optimizer = OPTIMIZERS[name](net.parameters())
        augment = Augment(degrees=10, shift=2, scale=0.1, shear=5, elastic=1, erase=8)
        average = MovingAverage(copy.deepcopy(net).parameters(), net.parameters())
        step = make(net, optimizer, augment=augment, clip=clip, average=average)
        assert step(images, labels).is_meta
    assert all(parameter.grad.is_meta for parameter in net.parameters())
    assert step.loss_sum.is_meta


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightnings_calls_take_the_same_steps(accumulate):
    torch.manual_seed(2)
    ours = Network(dropout=[0] * 4).train()
    theirs = copy.deepcopy(ours)
    optimizer = OPTIMIZERS["sgd"](parameter_groups(theirs))
    data = DataModule()
    lightnings = LightningStep(
        *(theirs, optimizer, data.as_pixels, data.normalise),
        backward=lambda loss: loss.backward(),
        step_optimizer=optimizer.step,
        label_smoothing=SMOOTHING,
        accumulate=accumulate,
    )
    own = make(ours, OPTIMIZERS["sgd"](parameter_groups(ours)), accumulate=accumulate)
    for number, batch in enumerate(batches(4)):
        places = (number % accumulate == 0, (number + 1) % accumulate == 0)
        assert torch.equal(own(*batch, *places), lightnings(*batch, *places))
    for value, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_hooks_around_lightnings_calls_are_found():
    class Plain(Callback):
        pass

    class Hooked(Callback):
        def on_after_backward(self, trainer, module):
            pass

    assert overridden_hooks([Plain(), Hooked()], [Callback]) == ["Hooked.on_after_backward"]
