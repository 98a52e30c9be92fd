import pytest
import torch
from torch import nn

from cnnbp.errors import UserError
from cnnbp.model.network import ACTIVATIONS, NORMS, Network

BLOCK_NAMES = ("conv1.0", "conv1.1", "conv2", "conv3", "conv4")


def test_logits_have_one_row_an_image():
    assert Network()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_state_dict_names_do_not_depend_on_dropout():
    assert list(Network().state_dict()) == list(Network(dropout=(0, 0, 0, 0)).state_dict())


def test_blocks_are_in_the_published_order_with_the_published_rates():
    network = Network()
    blocks = [network.get_submodule(name) for name in BLOCK_NAMES]
    assert [[type(layer).__name__ for layer in block] for block in blocks] == [
        ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"],
        ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"],
        ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"],
        ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"],
        ["Conv2d", "ReLU", "BatchNorm2d"],
    ]
    assert [block.dropout.p for block in blocks[:4]] == [0.05, 0.1, 0.1, 0.1]


def test_the_forward_pass_is_that_of_torch_layers_in_a_row():
    torch.manual_seed(0)
    network = Network().eval()
    images = torch.randn(2, 1, 28, 28)
    x = images
    for module in network.modules():
        if not list(module.children()):
            x = module(x)
    torch.testing.assert_close(network(images), x.flatten(1))


def test_the_published_head_is_the_mean_over_the_maps():
    torch.manual_seed(0)
    network, images = Network().eval(), torch.randn(2, 1, 28, 28)
    maps = nn.Sequential(*list(network.children())[:-1])(images)
    assert maps.shape == (2, 10, 5, 5)
    torch.testing.assert_close(network(images), maps.mean((2, 3)))


CLASSES = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_block_has_the_activation_that_is_asked_for(name):
    network = Network(activation=name)
    blocks = [network.get_submodule(block) for block in BLOCK_NAMES]
    assert [type(block.activation) for block in blocks] == 5 * [CLASSES[name]]


def test_usual_order_and_other_layers():
    network = Network(norm="group", activation="silu", order="norm_activation")
    assert [type(layer) for layer in network.conv2][1:3] == [nn.GroupNorm, nn.SiLU]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in Network(norm="none").modules())


def test_the_linear_head_is_fully_connected():
    torch.manual_seed(0)
    network = Network(head="linear").eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 19_866 + 250 * 10 + 10
    images = torch.randn(2, 1, 28, 28)
    maps = torch.nn.Sequential(*list(network.children())[:-1])(images)
    expected = torch.nn.functional.linear(
        maps.flatten(1), network.linear.weight.flatten(1), network.linear.bias
    )
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [*NORMS, "none"])
def test_every_activation_and_norm_builds(activation, norm):
    Network(activation=activation, norm=norm)(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("widths", (32, 24, 16, 24)),
        ("widths", (32, 24, 16, 24, 0)),
        ("widths", (32, 24, 16, 24, 1.5)),
        ("dropout", (0.1, 0.1, 0.1)),
        ("dropout", (0.1, 0.1, 0.1, 1)),
        ("dropout", (0.1, 0.1, 0.1, -0.1)),
        ("dropout", "0000"),
        ("activation", "swish"),
        ("norm", "layer"),
        ("order", "backwards"),
        ("head", "dense"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(argument, value):
    with pytest.raises(UserError) as error:
        Network(**{argument: value})
    assert str(error.value).startswith(f"{argument}={value}: must be ")


def test_group_normalisation_refuses_widths_that_do_not_divide():
    with pytest.raises(UserError, match="multiples of 4"):
        Network(widths=(32, 24, 18, 24, 16), norm="group")


def test_the_smallest_image_is_the_one_that_is_named():
    Network(image_size=11)
    with pytest.raises(UserError, match="image_size=10: .* needs 11 pixels or more"):
        Network(image_size=10)
