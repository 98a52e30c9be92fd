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
    assert (
        exit.value.code
        == "error: dropout.rates=[1, 0, 0, 0]: must be four rates from 0 up to, not including, 1"
    )


def test_receptive_fields_against_the_gradient_at_the_input():
    """The middle output depends on exactly the pixels of its receptive field; all weights positive, no ReLU closes."""
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
