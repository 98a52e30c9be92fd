from pathlib import Path

import pytest
import torch

from cnnbp.model.layer_table import measure, table
from cnnbp.model.network import Network

IMAGE = torch.zeros(1, 1, 28, 28)


def test_the_published_table_to_the_letter(cnnbp, capsys):
    cnnbp("summary")
    assert capsys.readouterr().out == (Path(__file__).parent / "published_summary.txt").read_text()


def test_overrides_change_the_table(cnnbp, capsys):
    cnnbp("summary", "dropout=none", "model.network.widths=[8,8,8,8,8]")
    table = capsys.readouterr().out
    assert "Dropout" not in table
    assert "[-1, 8, 26, 26]" in table


def test_a_wrong_override_is_one_line(cnnbp, capsys):
    with pytest.raises(SystemExit) as exit:
        cnnbp("summary", "dropout.rates=[1,0,0,0]")
    assert exit.value.code.startswith("error: dropout.rates=[1, 0, 0, 0]: must be less than 1")


def test_receptive_fields_against_the_gradient_at_the_input():
    """The middle output depends on exactly the pixels of its receptive field.

    All weights are positive, so that every ReLU passes its input.
    """
    network = Network(norm="none", dropout=(0, 0, 0, 0)).double()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    image = torch.zeros(1, 1, 101, 101, dtype=torch.double, requires_grad=True)
    x = image
    leaves = [module for module in network.modules() if not list(module.children())]
    for layer, module in zip(measure(network, image.detach()), leaves, strict=True):
        x = module(x)
        middle = x[0, 0, x.shape[2] // 2, x.shape[3] // 2]
        (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
        rows = gradient[0, 0].ne(0).any(1).nonzero().flatten()
        assert int(rows[-1] - rows[0]) + 1 == layer.receptive_field, layer.name


def test_multiply_accumulates_against_torch():
    from torch.utils.flop_counter import FlopCounterMode

    network = Network().eval()
    with FlopCounterMode(display=False) as counter:
        network(IMAGE)
    assert 2 * sum(layer.macs for layer in measure(network, IMAGE)) == counter.get_total_flops()


def test_wide_adds_three_columns_and_a_total():
    text = table(measure(Network(), IMAGE), wide=True)
    assert "MACs" in text
    assert "Total multiply-accumulates: 6,172,064" in text


def test_measuring_leaves_the_network_as_it_was():
    network = Network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure(network, IMAGE)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_measuring_leaves_each_layer_in_its_mode():
    network = Network().train()
    network.conv2.norm.eval()
    before = [module.training for module in network.modules()]
    measure(network, IMAGE)
    assert [module.training for module in network.modules()] == before


def test_a_failed_measurement_leaves_the_network_as_it_was():
    network = Network().train()
    with pytest.raises(RuntimeError):
        measure(network, torch.zeros(1, 3, 28, 28))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def test_frozen_parameters_are_not_trainable():
    network = Network()
    network.conv5.requires_grad_(False)
    text = table(measure(network, IMAGE))
    assert "Trainable params: 18,416" in text
    assert "Non-trainable params: 1,450" in text


def test_strides_groups_and_linear_layers():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2),
        torch.nn.Conv2d(4, 8, 5, groups=2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 9 * 9, 10),
    )
    layers = measure(network, IMAGE)
    assert [layer.receptive_field for layer in layers[:2]] == [3, 11]
    assert [layer.jump for layer in layers[:2]] == [2, 2]
    assert [layer.macs for layer in layers] == [4 * 13 * 13 * 9, 8 * 81 * 2 * 25, 0, 6480]
    assert layers[3].shape == (10,)
