import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.model import backprop
from cnnbp.model.network import ACTIVATIONS, Network

SMALL = {"widths": (4, 8, 4, 4, 4)}


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    """One thread: on a busy machine these small tensors would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def batch(count):
    return normal(count, 1, 28, 28), torch.randint(10, (count,))


def build(**options):
    """A float64 network with random running statistics, scales and shifts."""
    network = Network(**options).double()
    for name, values in network.state_dict().items():
        if "norm" in name and values.is_floating_point():
            values.uniform_(0.5, 1.5)
            if name.endswith(("mean", "bias")):
                values -= 1
    return network


def assert_close(actual, expected, tolerance=1e-10):
    """Largest difference relative to the largest expected value.

    A largest value below 1e-5 is rounding's: the gradient at a bias before a norm.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = max(1e-5, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= tolerance * scale


def central_difference(function, values, direction, step=1e-6):
    """Slope of `function()` when `values` move, in place, along `direction`."""
    values += step * direction
    ahead = function()
    values -= 2 * step * direction
    behind = function()
    values += step * direction
    return (ahead - behind) / (2 * step)


def check(component, oracle, *inputs):
    """Compare output and gradients with autograd on `oracle`, and with central differences."""
    y, back = component(*inputs)
    dy = torch.randn_like(y)
    gradients = back(dy)
    leaves = [values.clone().requires_grad_() for values in inputs]
    expected = oracle(*leaves)
    assert_close(y, expected.detach())
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, leaves, dy), strict=True
    ):
        assert_close(gradient, reference)
    for values, gradient in zip(inputs, gradients, strict=True):
        direction = torch.randn_like(values)
        slope = central_difference(
            lambda: (component(*inputs)[0] * dy).sum().item(), values, direction
        )
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (1, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 2)])
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 1, 5, 8), (3, 2, 9, 6)])
def test_conv2d(shape, kernel, stride, padding):
    check(
        lambda x, weight, bias: backprop.conv2d(x, weight, bias, stride, padding),
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride, padding),
        *(normal(*shape), normal(4, shape[1], *kernel), normal(4)),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    module = ACTIVATIONS[name]()
    component = backprop.COMPONENTS[type(module).__name__]
    check(lambda x: component(module, x), module, 3 * normal(2, 3, 4, 5))


@pytest.mark.parametrize("module", [nn.LeakyReLU(0.3), nn.ELU(0.5), nn.ELU(2.0)], ids=str)
def test_activation_with_another_slope(module):
    component = backprop.COMPONENTS[type(module).__name__]
    check(lambda x: component(module, x), module, 3 * normal(2, 3, 4, 5))


@pytest.mark.parametrize(
    "module", [nn.BatchNorm2d(4, eps=0.5), nn.GroupNorm(2, 4, eps=0.5)], ids=str
)
def test_norm_with_another_eps(module):
    module, x = module.double(), normal(3, 4, 3, 2)
    with torch.no_grad():
        y, _ = backprop.COMPONENTS[type(module).__name__](module, x)
        assert_close(y, copy.deepcopy(module)(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_at_zero_and_far_out(name):
    module = ACTIVATIONS[name]()
    x = torch.tensor([0.0, 1e3, -1e3, 30.0, -30.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    with torch.no_grad():
        y, back = backprop.COMPONENTS[type(module).__name__](module, x)
        assert_close(y, module(x))
        assert_close(back(torch.ones_like(x))[0], expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 1), (6, 1, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape, training):
    mean, variance = normal(shape[1]), normal(shape[1]).square() + 0.5

    def component(*inputs):
        return backprop.batch_norm(*inputs, mean.clone(), variance.clone(), training)

    def oracle(*inputs):
        x, weight, bias = inputs
        return F.batch_norm(x, mean.clone(), variance.clone(), weight, bias, training)

    check(component, oracle, 2 + 3 * normal(*shape), normal(shape[1]), normal(shape[1]))


@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics(momentum):
    ours = nn.BatchNorm2d(3, momentum=momentum).double()
    theirs = copy.deepcopy(ours)
    with torch.no_grad():
        for _ in range(3):
            x = 5 + 2 * normal(2, 3, 3, 2)
            y, _ = backprop.COMPONENTS["BatchNorm2d"](ours, x)
            assert_close(y, theirs(x))
        ours.eval(), theirs.eval()
        assert_close(backprop.COMPONENTS["BatchNorm2d"](ours, x)[0], theirs(x))
    for name, buffer in theirs.named_buffers():
        assert_close(ours.get_buffer(name), buffer)
    assert ours.num_batches_tracked == 3


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups):
    check(
        lambda x, weight, bias: backprop.group_norm(x, weight, bias, groups),
        lambda x, weight, bias: F.group_norm(x, groups, weight, bias),
        *(2 + 3 * normal(3, 4, 3, 2), normal(4), normal(4)),
    )


def test_dropout():
    mask = (normal(2, 3, 4, 4) > 0) * 1.25
    check(lambda x: backprop.dropout(x, mask), lambda x: x * mask, normal(2, 3, 4, 4))


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (1, 2, 10, 15), (2, 1, 7, 9)])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_avg_pool2d(shape, size):
    check(lambda x: backprop.avg_pool2d(x, size), lambda x: F.avg_pool2d(x, size), normal(*shape))


@pytest.mark.parametrize("classes", [10, 47])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing, classes):
    labels = torch.tensor([0, 3, 9, 3, 1])
    check(
        lambda logits: backprop.cross_entropy(logits, labels, smoothing),
        lambda logits: F.cross_entropy(logits, labels, label_smoothing=smoothing),
        10 * normal(5, classes),
    )


def test_cross_entropy_of_large_logits():
    logits, labels = 1e4 * normal(4, 10), torch.tensor([1, 2, 3, 4])
    assert_close(backprop.cross_entropy(logits, labels)[0], F.cross_entropy(logits, labels))


OPTIONS = {
    "published": {},
    "usual order": {"order": "norm_activation", **SMALL},
    "no dropout": {"dropout": (0, 0, 0, 0), **SMALL},
    "other dropout": {"dropout": (0.5, 0, 0.25, 0), **SMALL},
    "group norm, gelu": {"norm": "group", "activation": "gelu", **SMALL},
    "no norm, elu": {"norm": "none", "activation": "elu", **SMALL},
    "leaky_relu, widths": {"activation": "leaky_relu", "widths": (3, 1, 6, 5, 3)},
    "silu, linear head": {"activation": "silu", "head": "linear", **SMALL},
    "tanh": {"activation": "tanh", "order": "norm_activation", **SMALL},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_network_against_autograd(options, training):
    network = build(**options).train(training)
    reference = copy.deepcopy(network)
    images, labels = batch(4)

    torch.manual_seed(7)
    records = backprop.forward(network, images, labels, label_smoothing=0.1)
    gradients, input_gradient = backprop.backward(records)

    outputs = {}
    for name, module in reference.named_modules():
        module.register_forward_hook(
            lambda module, _, y, name=name: (y.retain_grad(), outputs.update({name: y}))[0]
        )
    torch.manual_seed(7)
    images.requires_grad_()
    logits = reference(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()

    assert_close(records[-1].output, loss.detach())
    assert_close(records[-1].input, logits.detach())
    assert_close(input_gradient, images.grad)
    assert gradients.keys() == dict(reference.named_parameters()).keys()
    for name, parameter in reference.named_parameters():
        assert name.endswith("bias") or parameter.grad.abs().max() > 1e-5
        assert_close(gradients[name], parameter.grad)
    for name, buffer in reference.named_buffers():
        assert_close(network.get_buffer(name), buffer)
    for record in records[:-2]:
        assert type(reference.get_submodule(record.name)).__name__ == record.kind
        assert_close(record.output, outputs[record.name].detach())
        assert_close(record.gradient, outputs[record.name].grad)
    for before, after in pairwise(records):
        assert before.output is after.input


def test_network_gradients_against_central_differences():
    network = build(**SMALL)
    images, labels = batch(2)

    def loss():
        torch.manual_seed(7)
        return backprop.forward(network, images, labels)

    gradients, input_gradient = backprop.backward(loss())
    pairs = [
        (images, input_gradient),
        *((p.data, gradients[name]) for name, p in network.named_parameters()),
    ]
    for values, gradient in pairs:
        direction = gradient / gradient.norm()
        slope = central_difference(lambda: loss()[-1].output.item(), values, direction)
        assert gradient.norm().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "what", ["contiguous", "weights channels last", "images channels last", "both"]
)
def test_masks_are_the_modules_own(what, dtype):
    network = Network(widths=(4, 1, 3, 4, 2), dropout=(0.3, 0.3, 0.3, 0.3)).to(dtype)
    images, labels = torch.randn(2, 1, 28, 28, dtype=dtype), torch.tensor([1, 2])
    if what in ("weights channels last", "both"):
        network.to(memory_format=torch.channels_last)
    if what in ("images channels last", "both"):
        images = images.to(memory_format=torch.channels_last)
    outputs = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, _, y, name=name: outputs.update({name: y}))
    torch.manual_seed(3)
    network(images)
    expected = dict(outputs)
    torch.manual_seed(3)
    records = backprop.forward(network, images, labels)
    dropouts = [record for record in records if record.kind == "Dropout"]
    assert len(dropouts) == 4
    for record in dropouts:
        assert torch.equal(record.output == 0, expected[record.name] == 0)
        assert record.output.stride() == expected[record.name].stride()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_twenty_steps_by_hand_are_autograds(memory_format):
    by_hand = build(**SMALL).to(memory_format=memory_format)
    by_autograd = copy.deepcopy(by_hand)
    batches = [batch(4) for _ in range(20)]

    def train(network, loss_of):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(5)
        losses = []
        for images, labels in batches:
            optimizer.zero_grad()
            loss = loss_of(network, images, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    losses = train(by_hand, lambda *arguments: backprop.loss_and_logits(*arguments)[0])
    wanted = train(
        by_autograd, lambda network, images, labels: F.cross_entropy(network(images), labels)
    )
    assert losses == pytest.approx(wanted, rel=1e-9)
    for name, values in by_autograd.state_dict().items():
        assert_close(by_hand.state_dict()[name], values, 1e-9)


def test_backward_accumulates_in_the_layout_of_the_parameters():
    network = Network(**SMALL).to(memory_format=torch.channels_last)
    network.conv5.bias.requires_grad_(False)
    images, labels = torch.randn(3, 1, 28, 28), torch.tensor([1, 2, 3])
    loss, logits = backprop.loss_and_logits(network.eval(), images, labels)
    loss.backward()
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    once = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
    trained = [network.get_parameter(name) for name in once]
    by_autograd = torch.autograd.grad(F.cross_entropy(network(images), labels), trained)
    for ours, theirs in zip(once.values(), by_autograd, strict=True):
        assert_close(ours, theirs, 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = backprop.loss_and_logits(network, images, labels)
        loss.backward()
    assert network.conv5.bias.grad is None
    for name, gradient in once.items():
        parameter = network.get_parameter(name)
        sides = [
            side for side, size in enumerate(parameter.shape) if size > 1
        ]  # of one element a stride says nothing
        assert [parameter.grad.stride(side) for side in sides] == [
            parameter.stride(side) for side in sides
        ]
        assert_close(parameter.grad, 2 * gradient, 1e-5)


def test_gradients_at_the_images_and_of_a_scaled_loss_are_autograds():
    network = build(**SMALL).eval()
    images, labels = batch(3)
    leaves = [images.requires_grad_(), *network.parameters()]
    loss, logits = backprop.loss_and_logits(network, images, labels, 0.1)
    assert not logits.requires_grad
    by_hand = torch.autograd.grad(3 * loss, leaves)
    loss = F.cross_entropy(network(images), labels, label_smoothing=0.1)
    for ours, theirs in zip(by_hand, torch.autograd.grad(3 * loss, leaves), strict=True):
        assert_close(ours, theirs)


def test_a_second_derivative_is_refused():
    network = build(**SMALL)
    images, labels = batch(2)
    loss, _ = backprop.loss_and_logits(network, images.requires_grad_(), labels)
    with pytest.raises(UserError, match=r"by_hand.*create_graph=True"):
        torch.autograd.grad(loss, images, create_graph=True)


def test_a_parameter_that_changed_before_the_backward_pass_is_refused():
    network = build(**SMALL)
    loss, _ = backprop.loss_and_logits(network, *batch(2))
    with torch.no_grad():
        network.conv2.conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


UNKNOWN = {
    "gap=MaxPool2d": ("gap", nn.MaxPool2d(5)),
    "conv5: dilation=(2, 2)": ("conv5", nn.Conv2d(4, 10, 3, dilation=2)),
    "conv5: groups=2": ("conv5", nn.Conv2d(4, 10, 3, groups=2)),
    "conv5: padding_mode=circular": ("conv5", nn.Conv2d(4, 10, 3, padding_mode="circular")),
    "conv5: bias=None": ("conv5", nn.Conv2d(4, 10, 3, bias=False)),
    "conv5: padding=same": ("conv5", nn.Conv2d(4, 10, 3, padding="same")),
    "conv2.activation: approximate=tanh": ("conv2.activation", nn.GELU("tanh")),
    "conv2.norm: weight=None": ("conv2.norm", nn.BatchNorm2d(4, affine=False)),
    "conv2.norm: running_mean=None": (
        "conv2.norm",
        nn.BatchNorm2d(4, track_running_stats=False),
    ),
    "conv2.norm: momentum=None": ("conv2.norm", nn.BatchNorm2d(4, momentum=None)),
    "gap: ceil_mode=True": ("gap", nn.AvgPool2d(5, ceil_mode=True)),
    "gap: divisor_override=3": ("gap", nn.AvgPool2d(5, divisor_override=3)),
    "gap=AvgPool2d(kernel_size=5, stride=2": ("gap", nn.AvgPool2d(5, stride=2)),
    "gap=AvgPool2d(kernel_size=5, stride=5, padding=1)": ("gap", nn.AvgPool2d(5, padding=1)),
    "gap=AvgPool2d(kernel_size=(5, 4)": ("gap", nn.AvgPool2d((5, 4))),
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_the_equations_do_not_cover_is_named(words):
    name, module = UNKNOWN[words]
    network = Network(**SMALL)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
    with pytest.raises(UserError) as error:
        backprop.forward(network, *batch(1))
    assert str(error.value).startswith(words)


def test_statistics_do_not_move_where_a_component_is_refused():
    network = Network(**SMALL)
    network.gap = nn.MaxPool2d(5)
    with pytest.raises(UserError, match=r"gap=MaxPool2d.*AvgPool2d"):
        backprop.forward(network, *batch(1))
    assert network.conv2.norm.num_batches_tracked == 0
