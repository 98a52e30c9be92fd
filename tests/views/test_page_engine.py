"""The page's engine, run alone, against the equations in Python and against torch."""

import json

import pytest
import torch
from py_mini_racer import MiniRacer
from torch import nn

from cnnbp.model import backprop
from cnnbp.model.layer_table import measure
from cnnbp.model.network import Network
from cnnbp.views.page import FOLDER, described

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}  # shares of the largest value

HARNESS = """
const PRECISIONS = {float32: Float32Array, float64: Float64Array};
const plain = ({data, shape}) => ({data: Array.from(data), shape});
function tensorOf({data, shape}, precision) {
  return {data: PRECISIONS[precision].from(data), shape};
}
function tensorsOf(all, precision) {
  const pairs = Object.entries(all).map(([key, value]) => [key, tensorOf(value, precision)]);
  return Object.fromEntries(pairs);
}
function networkOf(components, precision) {
  return components.map((component) => ({
    ...component,
    parameters: tensorsOf(component.parameters, precision),
    buffers: tensorsOf(component.buffers, precision),
  }));
}
/* A stream for drawMask that draws the masks that torch drew. */
function replay(masks) {
  const values = masks.flat();
  let place = 0;
  return () => (values[place++] > 0 ? 1 : 0);
}
function runComponent({component, x, dy, precision, training, masks}) {
  const [own] = networkOf([component], precision);
  const mode = {training, random: replay(masks), labelSmoothing: 0};
  const {y, backward} = COMPONENTS[own.kind](own, tensorOf(x, precision), mode);
  const gradients = backward(tensorOf(dy, precision));
  return {
    y: plain(y), gradients: gradients.map(plain),
    buffers: Object.values(own.buffers).map(plain),
  };
}
function runNetwork({network, images, labels, precision, training, masks, labelSmoothing}) {
  const mode = {training, random: replay(masks), labelSmoothing};
  const own = networkOf(network, precision);
  const records = forward(own, tensorOf(images, precision), labels, mode);
  const {gradients, images: image} = backward(records);
  return {
    outputs: records.map(({output}) => plain(output)),
    gradients: Object.fromEntries(Object.entries(gradients).map(([k, v]) => [k, plain(v)])),
    image: plain(image),
  };
}
function freshParameters({network}) {
  const fresh = parametersOf(freshNetwork(networkOf(network, "float32"), uniformStream(1)));
  return Object.fromEntries(Object.entries(fresh).map(([name, value]) => [name, plain(value)]));
}
function runSteps({network, images, labels, precision, training, masks, rate, steps}) {
  const own = networkOf(network, precision);
  const mode = {training, random: replay(masks), labelSmoothing: 0};
  const losses = [];
  for (let step = 0; step < steps; step++) {
    const records = forward(own, tensorOf(images, precision), labels, mode);
    losses.push(records.at(-1).output.data[0]);
    sgdStep(own, backward(records).gradients, rate);
  }
  const all = {};
  for (const {name, parameters, buffers} of own) {
    for (const [key, value] of Object.entries({...parameters, ...buffers})) {
      all[`${name}.${key}`] = plain(value);
    }
  }
  return {losses, all};
}
function receptiveFieldsOf({network}) {
  const fields = receptiveFields(networkOf(network, "float32"));
  return Object.fromEntries(network.map(({name}, index) => [name, fields[index]]));
}
/* How far the arithmetic of cells is from what they hold, as a share of the largest value. */
function worstAccount({network, images, training, cells}) {
  const own = networkOf(network, "float64");
  const mode = {training, random: uniformStream(5), labelSmoothing: 0};
  const records = forward(own, tensorOf(images, "float64"), [3], mode);
  backward(records);
  const stops = records.filter(({kind}) => kind !== "Flatten");
  const random = uniformStream(6);
  const share = (value, tensor, cell) => {
    const largest = Math.max(...Array.from(tensor.data, Math.abs)) || 1;
    return Math.abs(value - at(tensor, cell)) / largest;
  };
  let worst = 0;
  stops.slice(0, -1).forEach((stop, index) => {
    for (let trial = 0; trial < cells; trial++) {
      const cell = stop.output.shape.slice(1).map((size) => Math.floor(random() * size));
      worst = Math.max(worst, share(forwardAccount(stop, cell).result, stop.output, cell));
      const {result} = backwardAccount(stops[index + 1], cell);
      worst = Math.max(worst, share(result, stop.gradient, cell));
    }
  });
  return worst;
}
"""

COMPONENTS = {
    "conv 5x5": (nn.Conv2d(1, 6, 5, 1, 1), (2, 1, 12, 12)),
    "conv 3x3 stride 2": (nn.Conv2d(3, 4, 3, 2, 1), (2, 3, 9, 8)),
    "conv of one stop": (nn.Conv2d(2, 3, 5), (1, 2, 5, 5)),
    "conv of unequal sides": (nn.Conv2d(2, 5, (3, 2), (2, 1), (0, 1)), (1, 2, 7, 6)),
    "relu": (nn.ReLU(), (2, 3, 4, 5)),
    "leaky relu": (nn.LeakyReLU(0.2), (2, 3, 4, 5)),
    "elu": (nn.ELU(0.7), (2, 3, 4, 5)),
    "gelu": (nn.GELU(), (2, 3, 4, 5)),
    "silu": (nn.SiLU(), (2, 3, 4, 5)),
    "tanh": (nn.Tanh(), (2, 3, 4, 5)),
    "batch norm": (nn.BatchNorm2d(3, eps=1e-3, momentum=0.2), (4, 3, 5, 6)),
    "batch norm of one image": (nn.BatchNorm2d(2), (1, 2, 7, 7)),
    "group norm": (nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    "dropout": (nn.Dropout(0.25), (2, 3, 4, 5)),
    "mean of each map": (nn.AvgPool2d(5), (2, 10, 5, 5)),
    "mean with a remainder": (nn.AvgPool2d(2), (2, 3, 5, 7)),
}


@pytest.fixture(scope="module")
def engine():
    """Call a function of the harness with one argument that JSON can hold."""
    context = MiniRacer()
    for name in ("engine", "equations", "arithmetic"):
        context.eval((FOLDER / f"{name}.js").read_text())
    context.eval(HARNESS)

    def call(function, **argument):
        return json.loads(context.eval(f"JSON.stringify({function}({json.dumps(argument)}))"))

    return call


def as_json(tensor):
    return {"data": tensor.detach().flatten().tolist(), "shape": list(tensor.shape)}


def structure(network):
    """What the page holds of a network, with its arrays as JSON."""
    components = described(network)
    for component in components:
        for part in ("parameters", "buffers"):
            values = component[part].items()
            component[part] = {key: as_json(torch.from_numpy(value)) for key, value in values}
    return components


def assert_near(found, expected, bound):
    assert found["shape"] == list(expected.shape)
    found = torch.tensor(found["data"], dtype=torch.float64)
    expected = expected.detach().flatten().double()
    assert (found - expected).abs().max() <= bound * expected.abs().max().clamp(min=1e-30)


def recorded_masks(network):
    """Collect the masks that dropout draws, in their order."""
    masks = []
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(
                lambda module, inputs, output: masks.append(output.flatten().tolist())
            )
    return masks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COMPONENTS)
def test_component_equals_backprop(engine, name, dtype, training):
    module, shape = COMPONENTS[name]
    torch.manual_seed(1)
    module = nn.Sequential(module).to(dtype).train(training)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    masks = recorded_masks(module)
    before = structure(module)[0]
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        y, back = backprop.COMPONENTS[before["kind"]](module[0], x)
        dy = torch.randn_like(y)
        expected = back(dy)
    found = engine(
        "runComponent",
        component=before,
        x=as_json(x),
        dy=as_json(dy),
        precision=str(dtype).removeprefix("torch."),
        training=training,
        masks=masks,
    )
    assert_near(found["y"], y, BOUNDS[dtype])
    assert len(found["gradients"]) == len(expected)
    for gradient, reference in zip(found["gradients"], expected, strict=True):
        assert_near(gradient, reference, BOUNDS[dtype])
    moved = [value for value in module.buffers() if value.is_floating_point()]
    for buffer, reference in zip(found["buffers"], moved, strict=True):
        assert_near(buffer, reference, BOUNDS[dtype])


VARIANTS = {
    "published": {},
    "usual order, group norm, GELU": {
        "order": "norm_activation",
        "norm": "group",
        "activation": "gelu",
    },
    "no norm, linear head, other widths": {
        "norm": "none",
        "head": "linear",
        "widths": (5, 6, 7, 8, 9),
        "activation": "leaky_relu",
    },
}


def small_case(variant, dtype, training, images=3):
    torch.manual_seed(2)
    network = Network(dropout=(0.25, 0, 0.5, 0.125), **VARIANTS[variant])
    network = network.to(dtype).train(training)
    x = torch.randn(images, 1, 28, 28, dtype=dtype)
    return network, x, torch.arange(images)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_network_equals_backprop(engine, variant, dtype, training):
    network, images, labels = small_case(variant, dtype, training)
    masks = recorded_masks(network)
    before = structure(network)
    records = backprop.forward(network, images, labels, label_smoothing=0.1)
    gradients, image = backprop.backward(records)
    found = engine(
        "runNetwork",
        network=before,
        images=as_json(images),
        labels=labels.tolist(),
        precision=str(dtype).removeprefix("torch."),
        training=training,
        masks=masks,
        labelSmoothing=0.1,
    )
    for output, record in zip(found["outputs"], records, strict=True):
        assert_near(output, record.output, BOUNDS[dtype])
    assert found["gradients"].keys() == gradients.keys()
    scale = max(gradient.abs().max() for gradient in gradients.values())
    for name, reference in gradients.items():
        # in front of a norm the gradient of a bias is 0 but for rounding
        if reference.abs().max() > 1e-6 * scale:
            assert_near(found["gradients"][name], reference, BOUNDS[dtype])
    assert_near(found["image"], image, BOUNDS[dtype])


class RecordedDropout(nn.Dropout):
    """Keeps the masks that it draws."""

    def __init__(self, p, masks):
        super().__init__(p)
        self.masks = masks

    def forward(self, x):
        mask = super().forward(torch.ones_like(x))
        self.masks.append(mask.flatten().tolist())
        return x * mask


def test_ten_steps_equal_torchs(engine):
    network, images, labels = small_case("published", torch.float64, training=True, images=8)
    labels = labels % 10
    before = structure(network)
    masks = []
    for block in (network.conv1[0], network.conv2, network.conv3):
        block.dropout = RecordedDropout(block.dropout.p, masks)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = engine(
        "runSteps",
        network=before,
        images=as_json(images),
        labels=labels.tolist(),
        precision="float32",
        training=True,
        masks=masks,
        rate=0.05,
        steps=10,
    )
    assert found["losses"] == pytest.approx(losses, rel=1e-4)
    for name, value in network.state_dict().items():
        if name in found["all"]:
            assert_near(found["all"][name], value, 1e-4)


def test_fresh_weights_are_torchs_in_their_spread(engine):
    network = Network()
    expected = dict(network.named_parameters())
    found = engine("freshParameters", network=structure(network))
    for name, value in expected.items():
        data = torch.tensor(found[name]["data"])
        assert data.abs().max() <= value.abs().max() * 1.2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_arithmetic_of_cells_comes_to_their_values(engine, variant, training):
    network, images, _ = small_case(variant, torch.float64, training, images=1)
    worst = engine(
        "worstAccount",
        network=structure(network),
        images=as_json(images),
        training=training,
        cells=30,
    )
    assert worst < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
def test_receptive_fields_are_the_layer_tables(engine, variant):
    network, images, _ = small_case(variant, torch.float32, training=False, images=1)
    layers = {layer.name: layer.receptive_field for layer in measure(network, images)}
    found = engine("receptiveFieldsOf", network=structure(network))
    assert {name: field["size"][0] for name, field in found.items()} == layers
