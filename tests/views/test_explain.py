"""Every number of a trace against an independent computation, and its picture and film as files."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.model import backprop
from cnnbp.model.layer_table import measure
from cnnbp.model.network import Network
from cnnbp.views.explain import explain_trace
from cnnbp.views.trace import TracedComponent, trace_image
from cnnbp.views.trace_film import animate_trace
from cnnbp.views.trace_panels import Block, place_panels
from cnnbp.views.trace_picture import arrange_maps, draw_trace
from cnnbp.views.trace_table import trace_table

pytest.importorskip("matplotlib")

LR = 0.05
SMALL = {"widths": (4, 8, 4, 4, 4)}
OPTIONS = {
    "published": {},
    "no dropout, usual order": {"dropout": (0, 0, 0, 0), "order": "norm_activation", **SMALL},
    "group norm, gelu": {"norm": "group", "activation": "gelu", **SMALL},
    "no norm": {"norm": "none", "widths": (5, 3, 4, 4, 2)},
    "linear head": {"head": "linear", **SMALL},
}


def build(**options) -> Network:
    torch.manual_seed(3)
    network = Network(**options)
    with torch.no_grad():
        network(torch.randn(16, 1, 28, 28))  # moves the running statistics
    return network


def digit() -> torch.Tensor:
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[5:23, 13:16] = 255
    image[5:8, 8:16] = 128
    return image


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 33) / 79


def travel(network, label=7):
    return trace_image(network, normalise(digit()[None, None].double()), label, LR)


def by_autograd(network, label):
    """Outputs with their gradients by name, and the network with gradients, in float64 and
    evaluation mode.
    """
    network = copy.deepcopy(network).double().eval()
    outputs = {"image": normalise(digit()[None, None].double()).requires_grad_()}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, _, y, name=name: outputs.update({name: y}))
    outputs["logits"] = network(outputs["image"])
    outputs["loss"] = F.cross_entropy(outputs["logits"], torch.tensor([label]))
    for y in outputs.values():
        y.retain_grad()
    outputs["loss"].backward()
    return outputs, network


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_stop_against_autograd_and_a_real_step(options):
    network = build(**options)
    trace = travel(network)
    stops, label = trace.components, trace.label
    assert label == 7
    outputs, reference = by_autograd(network, label)
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    assert [stop.name for stop in stops] == ["image", *leaves, "logits", "loss"]
    layers = {layer.name: layer for layer in measure(network, torch.zeros(1, 1, 28, 28))}
    before = {name: p.detach().clone() for name, p in reference.named_parameters()}
    torch.optim.SGD(reference.parameters(), lr=LR).step()

    for stop in stops:
        y = outputs[stop.name]
        torch.testing.assert_close(
            stop.output, y.detach().reshape(stop.output.shape), rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(
            stop.gradient, y.grad.reshape(stop.gradient.shape), rtol=1e-9, atol=1e-15
        )
        layer = layers.get(stop.name)
        expected = (
            (layer.parameters, layer.receptive_field, layer.macs) if layer else (0, stop.field, 0)
        )
        assert (stop.parameters, stop.field, stop.macs) == expected
        if f"{stop.name}.weight" in before:
            weight, old = (
                reference.get_parameter(f"{stop.name}.weight"),
                before[f"{stop.name}.weight"],
            )
            assert stop.weight_gradient == pytest.approx(weight.grad.norm().item(), rel=1e-9)
            assert stop.update == pytest.approx(
                ((weight - old).norm() / old.norm()).item(), rel=1e-9
            )
        else:
            assert stop.weight_gradient is stop.update is None
        assert 0 <= stop.difference < 1e-11
    assert (stops[0].field, stops[-1].field) == (1, 45)


def test_difference_is_the_largest_of_output_and_parameters():
    network = build(**SMALL)
    stops = travel(network).components
    outputs, reference = by_autograd(network, 7)
    image = normalise(digit()[None, None].double())
    plain = build(**SMALL).double().eval()  # without hooks
    records = backprop.forward(plain, image, torch.tensor([7]))
    gradients, image_gradient = backprop.backward(records)

    def share(by_hand, autograd):
        return ((by_hand - autograd).abs().max() / autograd.abs().max()).item()

    assert stops[0].difference == share(image_gradient, outputs["image"].grad)
    for stop, record in zip(stops[1:], records, strict=True):
        keys = [key for key in gradients if key.startswith(f"{stop.name}.")]
        expected = [share(gradients[key], reference.get_parameter(key).grad) for key in keys]
        assert stop.difference == max([share(record.gradient, outputs[stop.name].grad), *expected])


def test_a_wrong_gradient_by_hand_is_seen(monkeypatch):
    monkeypatch.setitem(
        backprop.COMPONENTS, "ReLU", lambda module, x: (x.clamp(min=0), lambda dy: (0.9 * dy,))
    )
    stops = travel(build(**SMALL)).components
    differences = {stop.name: stop.difference for stop in stops}
    assert (
        differences["conv4.activation"] < 1e-11
    )  # its own gradient is still right, what it hands on is not
    assert differences["conv4.conv"] > 0.05
    assert differences["image"] > 0.05


def test_table_shows_the_stops():
    network = build()
    trace = travel(network)
    stops, label = trace.components, trace.label
    lines = trace_table(trace).splitlines()
    assert max(map(len, lines)) <= 140
    rows = {
        line.split()[0]: line.replace("|", " ").split()
        for line in lines[3:-3]
        if not line.startswith("-")
    }
    assert list(rows) == [*(stop.name for stop in stops), "total"][: len(rows)]
    for stop in stops:
        y = stop.output.flatten()
        mean = y.sum() / len(y)
        std = ((y - mean).square().sum() / len(y)).sqrt()
        zeros = 100 * sum(value == 0 for value in y.tolist()) / len(y)
        expected = [stop.name, stop.kind, "x".join(map(str, stop.output.shape)) or "1"]
        expected += [f"{number:,}" for number in (stop.parameters, stop.field, stop.macs)]
        expected += [f"{mean:.4f}", f"{std:.4f}", f"{zeros:.1f}%"]
        values = [
            stop.gradient.square().sum().sqrt().item(),
            stop.weight_gradient,
            stop.update,
            stop.difference,
        ]
        expected += [f"{value:.1e}" for value in values if value is not None]
        assert rows[stop.name] == expected
    assert rows["conv1.0.activation"][8] != "0.0%"

    _, reference = by_autograd(network, label)
    squares = sum(
        p.grad.square().sum().item() for name, p in reference.named_parameters() if "weight" in name
    )
    worst = max(stop.difference for stop in stops)
    assert lines[-3].replace("|", " ").split() == [
        "total",
        "19,866",
        "6,172,064",
        f"{squares**0.5:.1e}",
        f"{worst:.1e}",
    ]
    image = normalise(digit()[None, None].float())
    probabilities = network.eval()(image).softmax(1)[0]
    top = int(probabilities.argmax())
    assert (
        f"loss {-probabilities[7].log().item():.3g} for 7 | predicted {top} "
        f"({probabilities[top]:.2%})" in lines[-1]
    )
    assert f"{worst:.0e}" in lines[-1]


@pytest.mark.parametrize("label", [None, 2])
def test_label(label, capsys):
    network = build(**SMALL)
    prediction = int(network.eval()(normalise(digit()[None, None].float())).argmax())
    explain_trace(travel(network, label), "a picture", label_is_known=label is not None)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"a picture: predicted {prediction}, true class ")
    assert ("unknown" in first) == (label is None)
    assert f"for {prediction if label is None else 2} |" in last


def test_the_network_is_left_as_it_was():
    network = build(**SMALL).train()
    network.conv5.bias.requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    travel(network)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.conv5.bias.requires_grad
    for name, values in network.state_dict().items():
        assert values.dtype == state[name].dtype
        assert torch.equal(values, state[name])


def test_picture(tmp_path):
    draw_trace(travel(build()), tmp_path / "picture.png", "title")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1920, 1080)
        assert len(picture.convert("RGB").getcolors(2**21)) > 1000


@pytest.mark.parametrize(
    "widths", [(32, 24, 16, 24, 16), (64, 48, 32, 48, 32), (200, 100, 1, 1, 7), (1, 1, 1, 1, 1)]
)
def test_all_maps_have_room(widths):
    channels = {"image": 1}
    channels |= zip(("conv1.0", "conv1.1", "conv2", "conv3", "conv4"), widths, strict=True)
    channels |= {"conv5": 10}
    kinds = {"image": "input", "softmax": "scores"}
    shapes = {name: (number, 2, 2) for name, number in channels.items()}
    shapes |= {"gap": (10, 1, 1), "softmax": (10,)}
    blocks = []
    for name, shape in shapes.items():
        output = torch.empty(shape)
        component = TracedComponent(name, kinds.get(name, "Conv2d"), "", output, output)
        blocks.append(Block(name, [component]))
    panels = place_panels(blocks, classes=10)
    assert [panel.block.name for panel in panels] == list(shapes)
    edges = [(panel.left, panel.left + panel.width) for panel in panels]
    for (_, right), (left, _) in pairwise([*edges, (1920, 1920)]):
        assert right + 25 < left
    for panel in panels:
        number = channels.get(panel.block.name, 0)
        columns = round(panel.width / panel.map_side)
        assert columns * 368 / panel.map_side >= number - 1e-9


def test_picture_of_a_dead_network(tmp_path):
    network = build(**SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace = travel(network)
        trace_table(trace)
        draw_trace(trace, tmp_path / "picture.png")


def test_film(tmp_path):
    trace = travel(build(**OPTIONS["no dropout, usual order"]))
    stops = trace.components
    animate_trace(trace, tmp_path / "film.gif", "title")
    assert (tmp_path / "film.gif").stat().st_size < 2e6
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
    with Image.open(tmp_path / "film.gif") as film:
        # forward all but the loss, then the loss, then back to the image without the probabilities
        assert film.n_frames == len(stops) - 1 + 1 + len(stops) - 2
        assert film.size == (1280, 720)
        ink = []
        for frame in (0, film.n_frames // 2, film.n_frames - 1):
            film.seek(frame)
            histogram = film.convert("L").histogram()
            ink.append(sum(histogram[:250]))
        assert ink == sorted(ink)
        assert ink[2] > 2 * ink[0]
        assert len(film.convert("RGB").getcolors(2**20)) > 100


def test_film_must_be_a_gif(tmp_path):
    with pytest.raises(UserError, match=r"film\.mp4: the film is a GIF; name it FILE\.gif"):
        explain_trace(travel(build(**SMALL)), "", film=str(tmp_path / "film.mp4"))


def test_explain_writes_and_names_its_files(tmp_path, capsys):
    plot = str(tmp_path / "picture.svg")
    explain_trace(travel(build(**SMALL), 1), "", plot=plot)
    assert capsys.readouterr().out.endswith(f"{plot}\n")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


def test_tiles_are_laid_out_in_rows():
    maps = torch.arange(5 * 2 * 2.0).reshape(5, 2, 2).numpy()
    sheet = arrange_maps(maps, columns=3, side=4, gap=1)
    assert sheet.shape == (9, 14)
    assert (sheet[0, 0], sheet[3, 3]) == (0, 3)
    assert (sheet[0, 5], sheet[0, 10], sheet[5, 0], sheet[8, 8]) == (4, 8, 12, 19)
    assert sheet[4].size == sum(value != value for value in sheet[4])  # NaN between the rows
    assert sheet[5, 10] != sheet[5, 10]  # and where there is no sixth map
