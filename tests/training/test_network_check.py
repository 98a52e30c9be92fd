"""A network that does not fit its data is found before anything is created."""

import pytest
import torch
from torch import nn

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.training.classifier import Classifier
from cnnbp.training.network_check import check_network


class Silent(nn.Linear):
    def forward(self, x):
        return None


class Lines(nn.Linear):
    def forward(self, x):
        raise KeyError("height")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(100, 10)), "fails on images .2, 1, 28, 28"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 9)), r"to \(2, 9\); must be logits \(2, 10\)"),
        (nn.Conv2d(1, 10, 28), r"to \(2, 10, 1, 1\); must be logits \(2, 10\)"),
        (Silent(1, 1), "to NoneType; must be logits"),
        (Lines(1, 1), r"Lines fails .* \(test_network_check.py, line \d+\): KeyError: 'height'"),
        (nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.ZeroPad1d((0, 1))), "has no parameter"),
    ],
)
def test_a_wrong_network_is_named(network, said):
    with pytest.raises(UserError, match=said):
        check_network(network, DataModule())


def test_a_right_network_stays_as_it_is():
    network = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5).eval(), nn.BatchNorm1d(784), nn.Linear(784, 10)
    )
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    check_network(network, DataModule())
    assert [module.training for module in network.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_data_of_another_kind_is_not_checked():
    check_network(nn.Linear(1, 1), object())


def test_a_network_is_a_module():
    with pytest.raises(UserError, match="must be a torch.nn.Module"):
        Classifier("text", torch.optim.SGD)
