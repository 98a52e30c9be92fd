"""Networks that the equations do not cover: every gradient against autograd, and what is marked."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.views.trace import trace_image
from cnnbp.views.trace_film import animate_trace
from cnnbp.views.trace_panels import MOST_BLOCKS, group_into_blocks
from cnnbp.views.trace_picture import draw_trace
from cnnbp.views.trace_table import trace_table

CLASSES = ("cat", "dog", "aeroplane")
LR = 0.1


class Residual(nn.Module):
    """A shortcut, a ReLU that writes over its input and is used twice, and functional pooling."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.norm(self.second(x)) + x)
        return self.linear(x.mean((2, 3)))


class Shared(nn.Module):
    """One convolution, used twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x)).mean((2, 3))


class ReLU(nn.Module):
    """Not the ReLU that its name says."""

    def forward(self, x):
        return x.square()


class Recurrent(nn.Module):
    """A layer that returns more than one tensor."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRUCell(3 * 8, 6)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        state = torch.zeros(1, 6, dtype=x.dtype)
        for row in x.flatten(1).split(24, 1):
            state = self.rnn(row, state)
        return self.linear(state)


def perceptron():
    layers = [nn.Flatten(), nn.Linear(3 * 64, 12), nn.Tanh(), nn.Linear(12, 3)]
    return nn.Sequential(*layers)


def pooled():
    layers = [nn.Conv2d(3, 4, 3), ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    return nn.Sequential(*layers)


NETWORKS = {
    "perceptron": (perceptron, {"0", "1", "3"}),
    "pooled": (pooled, {"1", "2", "3", "4"}),
    "residual": (Residual, {"image", "linear"}),
    "shared": (Shared, {"image"}),
    "recurrent": (Recurrent, {"image", "linear"}),
}


def trace_of(build):
    torch.manual_seed(4)
    network = build().double()
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    return network, image, trace_image(network, image, 1, LR, CLASSES)


@pytest.mark.parametrize(("build", "by_autograd"), NETWORKS.values(), ids=NETWORKS)
def test_every_gradient_against_autograd(build, by_autograd):
    network, image, trace = trace_of(build)
    outputs = []
    network.eval()
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    image = image.requires_grad_()
    logits = network(image)
    loss = F.cross_entropy(logits, torch.tensor([1]))
    layers = [component for component in trace.components if component.is_layer]
    kept = outputs if len(outputs) == len(layers) else outputs[-1:]  # the cell takes two tensors
    everything = [image, *kept, logits, loss]
    gradients = torch.autograd.grad(loss, everything, retain_graph=True)
    for component, output, gradient in zip(trace.components, everything, gradients, strict=True):
        shape = component.output.shape
        torch.testing.assert_close(component.output, output.detach().reshape(shape))
        torch.testing.assert_close(component.gradient, gradient.reshape(shape), rtol=1e-9, atol=0)
        assert component.difference < 1e-12
    marked = {component.name for component in trace.components if not component.by_hand}
    assert marked == by_autograd


def test_the_weights_of_an_unknown_layer_are_measured():
    network, image, trace = trace_of(perceptron)
    loss = F.cross_entropy(network(image), torch.tensor([1]))
    weights = [network[1].weight, network[3].weight]
    gradients = torch.autograd.grad(loss, weights)
    linear = [component for component in trace.components if component.kind == "Linear"]
    for component, weight, gradient in zip(linear, weights, gradients, strict=True):
        assert component.weight_gradient == pytest.approx(gradient.norm().item(), rel=1e-9)
        update = (LR * gradient.norm() / weight.norm()).item()
        assert component.update == pytest.approx(update, rel=1e-9)


@pytest.mark.parametrize(("build", "by_autograd"), NETWORKS.values(), ids=NETWORKS)
def test_the_table_marks_what_autograd_computes(build, by_autograd):
    _, _, trace = trace_of(build)
    marked = set()
    for line in trace_table(trace).splitlines():
        if line.endswith(" autograd"):
            marked.add(line.split()[0])
    assert marked == by_autograd
    assert f"predicted {CLASSES[trace.prediction]} (" in trace_table(trace)


@pytest.mark.parametrize(("build", "_"), NETWORKS.values(), ids=NETWORKS)
def test_any_network_is_drawn_and_filmed(build, _, tmp_path):
    pytest.importorskip("matplotlib")
    _, _, trace = trace_of(build)
    draw_trace(trace, tmp_path / "picture.png")
    animate_trace(trace, tmp_path / "film.gif")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert (tmp_path / "film.gif").stat().st_size > 10_000


def names_of_blocks(build):
    return [block.name for block in group_into_blocks(trace_of(build)[2])]


def test_a_block_begins_with_a_layer_with_weights():
    assert names_of_blocks(perceptron) == ["image", "0", "3", "softmax"]
    assert names_of_blocks(pooled) == ["image", "0", "3", "softmax"]
    assert names_of_blocks(Residual) == ["image", "first", "second", "linear", "softmax"]


def test_some_blocks_of_a_deep_network_are_shown():
    def deep():
        layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(3 * MOST_BLOCKS)]
        return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten())

    names = names_of_blocks(deep)
    assert len(names) == MOST_BLOCKS + 2
    assert names[1] == "0"
    assert names[-2] == str(3 * MOST_BLOCKS)
